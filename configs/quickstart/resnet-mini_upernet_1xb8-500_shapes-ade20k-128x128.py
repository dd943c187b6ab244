_base_ = 'upernet_base.py'
model = dict(
    backbone=dict(
        type='mmbackbones.TimmBackbone',
        arch=dict(name='resnet50', layers=(1, 1, 2, 1), channels=(8, 16, 24, 32)),
        norm_cfg=None,
        init_cfg=None),
    decode_head=dict(in_channels=[32, 64, 96, 128]),
    auxiliary_head=dict(in_channels=96))
