# Classification of ImageNet-1K at 224 px, under the common recipe, with any backbone of the zoo:
# --backbone vmamba_tiny_s1l8. Training starts from random weights. tools/test.py with zoo://NAME tests the authors' weights
# at their own resolution and crop, and prints the published figure beside.
_base_ = [
    '../_base_/models/imagenet_classifier.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/amp-300e_imagenet.py',
    '../_base_/default_runtime.py',
]
