# The authors' recipe (DaiShiResearch/TransNeXt, detection/maskrcnn). It differs from the common one in:
# param_scheduler (warmup of 500 iterations), optim_wrapper (FP32).
_base_ = '../mask-rcnn_transnext-tiny_fpn_8xb2-amp-1x_coco.py'
recipe = 'native'
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='mmbackbones.OptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.))
