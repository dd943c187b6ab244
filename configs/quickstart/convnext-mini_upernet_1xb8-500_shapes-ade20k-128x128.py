_base_ = 'upernet_base.py'
model = dict(
    backbone=dict(
        type='mmbackbones.TimmBackbone',
        arch=dict(name='convnext_atto', depths=(1, 1, 3, 1), dims=(16, 32, 48, 64), ls_init_value=1.),
        init_cfg=None),
    decode_head=dict(in_channels=[16, 32, 48, 64]),
    auxiliary_head=dict(in_channels=48))
