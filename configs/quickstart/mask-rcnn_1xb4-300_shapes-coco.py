# Mask R-CNN cut down to what a CPU core trains in two minutes, with a miniature MambaOut: the zoo's mambaout_mini.
# --backbone vmamba_mini trains another one; mmbackbones/zoo/miniatures.csv lists them.
_base_ = [
    '../_base_/models/mask-rcnn_fpn.py',
    '../_base_/datasets/shapes_coco.py',
    '../_base_/schedules/amp-1x_coco.py',
    '../_base_/default_runtime.py',
]
recipe = 'quickstart'
num_classes = 3
model = dict(
    backbone=dict(
        type='mmbackbones.MambaOut',
        arch=dict(depths=(1, 1, 3, 1), dims=(16, 32, 48, 64)),
        init_cfg=None),
    neck=dict(in_channels=[16, 32, 48, 64], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=128, num_classes=num_classes),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(in_channels=64, conv_out_channels=64, num_convs=2, num_classes=num_classes)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)))

train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=300, val_interval=1000)
val_cfg, val_dataloader, val_evaluator = None, None, None  # the final test is enough
train_dataloader = dict(batch_sampler=None)
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=10., norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=30, end=300, T_max=270, eta_min=1e-5),
]
default_hooks = dict(
    logger=dict(interval=25, log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=100))
log_processor = dict(by_epoch=False, window_size=25)
