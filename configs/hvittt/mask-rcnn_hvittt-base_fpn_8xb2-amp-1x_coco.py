_base_ = [
    '../_base_/models/mask-rcnn_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/amp-1x_coco.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.HViTTT',
        arch='base',
        drop_path_rate=0.1,
        init_cfg=dict(
            type='mmbackbones.Pretrained',
            checkpoint='zoo://hvittt_base')),
    neck=dict(in_channels=[96, 192, 448, 640]))
