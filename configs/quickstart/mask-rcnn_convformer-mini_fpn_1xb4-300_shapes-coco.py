_base_ = 'mask-rcnn_base.py'
model = dict(
    backbone=dict(
        type='mmbackbones.TimmBackbone',
        arch=dict(name='convformer_s18', depths=(1, 1, 3, 1), dims=(16, 32, 48, 64)),
        init_cfg=None),
    neck=dict(in_channels=[16, 32, 48, 64]))
