_base_ = [
    '../_base_/models/mask-rcnn_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/amp-1x_coco.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.RAVLT',
        arch='large',
        drop_path_rate=0.55,
        init_cfg=dict(
            type='mmbackbones.Pretrained',
            checkpoint='zoo://ravlt_large')),
    neck=dict(in_channels=[96, 192, 448, 640]))
