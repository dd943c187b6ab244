# UperNet, 80k iterations on LoveDA, crops of 1024, under the common recipe, with any backbone of the zoo:
# --backbone vmamba_tiny_s1l8. The test takes whole images; model.test_cfg.mode=slide takes windows of larger ones.
_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/loveda_1024x1024.py',
    '../_base_/schedules/amp-80k_loveda.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(1024, 1024)),
    decode_head=dict(num_classes=7),
    auxiliary_head=dict(num_classes=7),
    test_cfg=dict(mode='whole', crop_size=(1024, 1024), stride=(768, 768)))
