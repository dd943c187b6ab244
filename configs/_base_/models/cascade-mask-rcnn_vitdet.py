# ViTDet's Cascade Mask R-CNN: LayerNorm in the pyramid, in the box heads and in the mask head, a region proposal network
# of two convolutions, boxes regressed alike for all classes, L1 loss. Source: mmdetection projects/ViTDet, and
# hustvl/Vim det/projects/ViTDet for the cascade. The weights of the stages' losses are mmdetection's. detectron2 has 1 for
# each stage and a third of the gradient. `--backbone` gives a hierarchical network FPN with the same norms.
# A config adds `model.backbone` and `model.neck.in_channels`.
_base_ = './cascade-mask-rcnn_fpn.py'

norm_cfg = dict(type='mmbackbones.LN2d', eps=1e-6)
stds = ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])
model = dict(
    neck=dict(
        _delete_=True,
        type='mmbackbones.SimpleFeaturePyramid',
        out_channels=256,
        num_outs=5,
        norm_cfg=norm_cfg),
    rpn_head=dict(num_convs=2, loss_bbox=dict(_delete_=True, type='L1Loss', loss_weight=1.0)),
    roi_head=dict(
        bbox_head=[
            dict(
                type='Shared4Conv1FCBBoxHead',
                in_channels=256,
                conv_out_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=80,
                bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.] * 4, target_stds=std),
                reg_class_agnostic=True,
                norm_cfg=norm_cfg,
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type='L1Loss', loss_weight=1.0)) for std in stds
        ],
        mask_head=dict(norm_cfg=norm_cfg)))
del norm_cfg, stds
