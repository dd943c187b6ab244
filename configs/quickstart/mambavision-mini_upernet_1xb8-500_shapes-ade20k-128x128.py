_base_ = 'upernet_base.py'
model = dict(
    backbone=dict(
        type='mmbackbones.MambaVision',
        arch=dict(dims=(16, 32, 48, 64), depths=(1, 1, 2, 1), stem_width=16, num_heads=(4, 4)),
        init_cfg=None),
    decode_head=dict(in_channels=[16, 32, 48, 64]),
    auxiliary_head=dict(in_channels=48))
