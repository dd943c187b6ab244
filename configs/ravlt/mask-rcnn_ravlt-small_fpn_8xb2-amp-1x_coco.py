_base_ = [
    '../_base_/models/mask-rcnn_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/amp-1x_coco.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.RAVLT',
        arch='small',
        drop_path_rate=0.15,
        init_cfg=dict(
            type='mmbackbones.Pretrained',
            checkpoint='zoo://ravlt_small')),
    neck=dict(in_channels=[64, 128, 320, 512]))
