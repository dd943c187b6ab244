_base_ = 'mask-rcnn_base.py'
model = dict(
    backbone=dict(
        type='mmbackbones.PlainMambaAdapter',
        arch=dict(embed_dims=64, depth=4, patch_size=8),
        img_size=160,
        num_groups=2,
        num_heads=4,
        conv_width=16,
        init_cfg=None),
    neck=dict(in_channels=[64, 64, 64, 64]))
