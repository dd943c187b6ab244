_base_ = [
    '../_base_/models/mask-rcnn_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/amp-1x_coco.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.TransNeXt',
        arch='tiny',
        img_size=800,
        drop_path_rate=0.4,
        init_cfg=dict(
            type='mmbackbones.Pretrained',
            checkpoint='zoo://transnext_tiny')),
    neck=dict(in_channels=[72, 144, 288, 576]))
