_base_ = [
    '../_base_/models/mask-rcnn_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/amp-1x_coco.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.VMamba',
        arch='base_s1l20',
        drop_path_rate=0.6,
        init_cfg=dict(
            type='mmbackbones.Pretrained',
            checkpoint='zoo://vmamba_base_s1l20')),
    neck=dict(in_channels=[128, 256, 512, 1024]))
