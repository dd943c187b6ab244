_base_ = [
    '../_base_/models/mask-rcnn_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/amp-1x_coco.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.TimmBackbone',
        arch='resnet101.tv_in1k',
        norm_eval=True,
        frozen_stages=1,
        norm_cfg=None,
        drop_path_rate=0.0,
        init_cfg=dict(
            type='mmbackbones.Pretrained',
            checkpoint='zoo://resnet_101')),
    neck=dict(in_channels=[256, 512, 1024, 2048]))
