_base_ = [
    '../_base_/models/mask-rcnn_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/amp-1x_coco.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.TimmBackbone',
        arch=dict(name='focalnet_tiny_lrf.ms_in1k', focal_windows=(9, 9, 9, 9)),
        drop_path_rate=0.1,
        init_cfg=dict(
            type='mmbackbones.Pretrained',
            checkpoint='zoo://focalnet_tiny_lrf')),
    neck=dict(in_channels=[96, 192, 384, 768]))
