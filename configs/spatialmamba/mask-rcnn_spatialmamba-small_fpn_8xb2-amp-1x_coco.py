_base_ = [
    '../_base_/models/mask-rcnn_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/amp-1x_coco.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.SpatialMamba',
        arch='small',
        drop_path_rate=0.3,
        # No verified address of published weights is known: set checkpoint to a file, or init_cfg=None for random weights.
        init_cfg=dict(type='mmbackbones.Pretrained', checkpoint=None)),
    neck=dict(in_channels=[64, 128, 256, 512]))
