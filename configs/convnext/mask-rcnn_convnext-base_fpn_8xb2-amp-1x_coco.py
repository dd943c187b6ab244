_base_ = [
    '../_base_/models/mask-rcnn_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/amp-1x_coco.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.TimmBackbone',
        arch='convnext_base.fb_in1k',
        drop_path_rate=0.7,
        init_cfg=dict(
            type='mmbackbones.Pretrained',
            checkpoint='zoo://convnext_base')),
    neck=dict(in_channels=[128, 256, 512, 1024]))
