_base_ = [
    '../_base_/models/mask-rcnn_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/amp-1x_coco.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.TimmBackbone',
        arch='twins_svt_small.in1k',
        drop_path_rate=0.2,
        init_cfg=dict(
            type='mmbackbones.Pretrained',
            checkpoint='zoo://twins_svt_small')),
    neck=dict(in_channels=[64, 128, 256, 512]))
