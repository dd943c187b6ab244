_base_ = 'mask-rcnn_base.py'
model = dict(
    backbone=dict(
        type='mmbackbones.LocalVMamba',
        arch=dict(dims=(16, 32, 48, 64), depths=(1, 1, 2, 1), directions='h v_flip w2 w7_flip'),
        init_cfg=None),
    neck=dict(in_channels=[16, 32, 48, 64]))
