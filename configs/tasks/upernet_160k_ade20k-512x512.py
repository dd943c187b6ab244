# UperNet, 160k iterations on ADE20K, under the common recipe, with any backbone of the zoo: --backbone vmamba_tiny_s1l8
_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/amp-160k_ade20k.py',
    '../_base_/default_runtime.py',
]
