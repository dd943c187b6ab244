_base_ = 'mask-rcnn_base.py'
model = dict(
    backbone=dict(
        type='mmbackbones.TimmBackbone',
        arch=dict(
            name='pvt_v2_b0', embed_dims=(16, 32, 48, 64), depths=(1, 1, 2, 1), num_heads=(1, 2, 3, 4)),
        norm_cfg=None,
        init_cfg=None),
    neck=dict(in_channels=[16, 32, 48, 64]))
