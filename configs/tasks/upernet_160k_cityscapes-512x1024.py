# UperNet, 160k iterations on Cityscapes, crops of 512x1024, under the common recipe, with any backbone of the zoo:
# --backbone vmamba_tiny_s1l8. The test takes whole images of 1024x2048; model.test_cfg.mode=slide takes windows.
_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/cityscapes_512x1024.py',
    '../_base_/schedules/amp-160k_ade20k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    decode_head=dict(num_classes=19),
    auxiliary_head=dict(num_classes=19),
    test_cfg=dict(mode='whole', crop_size=(512, 1024), stride=(384, 768)))
