# UperNet, 160k iterations on Cityscapes, crops of 1024x1024, under the common recipe, with any backbone of the zoo:
# --backbone vmamba_tiny_s1l8. The test takes whole images of 1024x2048; model.test_cfg.mode=slide takes windows.
_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/cityscapes_1024x1024.py',
    '../_base_/schedules/amp-160k_ade20k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(1024, 1024)),
    decode_head=dict(num_classes=19),
    auxiliary_head=dict(num_classes=19),
    test_cfg=dict(mode='whole', crop_size=(1024, 1024), stride=(768, 768)))
