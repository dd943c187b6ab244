_base_ = 'mask-rcnn_base.py'
model = dict(
    backbone=dict(
        type='mmbackbones.TimmBackbone',
        arch=dict(name='focalnet_tiny_lrf', embed_dim=16, depths=(1, 1, 2, 1), focal_levels=(3, 3, 3, 3)),
        init_cfg=None),
    neck=dict(in_channels=[16, 32, 64, 128]))
