_base_ = 'upernet_base.py'
model = dict(
    backbone=dict(
        type='mmbackbones.LocalVMamba',
        arch=dict(dims=(16, 32, 48, 64), depths=(1, 1, 2, 1), directions='h v_flip w2 w7_flip'),
        init_cfg=None),
    decode_head=dict(in_channels=[16, 32, 48, 64]),
    auxiliary_head=dict(in_channels=48))
