_base_ = 'mask-rcnn_base.py'
model = dict(
    backbone=dict(
        type='mmbackbones.TimmBackbone',
        arch=dict(
            name='swin_tiny_patch4_window7_224', embed_dim=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
        init_cfg=None),
    neck=dict(in_channels=[16, 32, 64, 128]))
