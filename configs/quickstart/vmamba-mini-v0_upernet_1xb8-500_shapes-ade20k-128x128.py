_base_ = 'upernet_base.py'
model = dict(
    backbone=dict(
        type='mmbackbones.VMamba',
        arch=dict(dims=(16, 32, 48, 64), depths=(1, 1, 2, 1), d_state=16, mlp_ratio=0., conv_bias=True, gate=True, patches=True),
        init_cfg=None),
    decode_head=dict(in_channels=[16, 32, 48, 64]),
    auxiliary_head=dict(in_channels=48))
