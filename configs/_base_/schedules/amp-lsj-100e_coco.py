# ViTDet's recipe: AdamW, batch 64 (8 GPUs x 8), 184,375 iterations (100 epochs of 118,000 images), FP16, no layer decay,
# which needs a rate per network. Sources: mmdetection projects/ViTDet; hustvl/Vim det/projects/ViTDet.
_base_ = './amp-1x_coco.py'

train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=184375, val_interval=5000)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type='MultiStepLR', begin=0, end=184375, by_epoch=False, milestones=[163889, 177546], gamma=0.1),
]
optim_wrapper = dict(optimizer=dict(weight_decay=0.1))
auto_scale_lr = dict(base_batch_size=64)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=5000))
log_processor = dict(by_epoch=False)
