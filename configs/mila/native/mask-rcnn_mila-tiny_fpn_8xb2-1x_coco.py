# The authors' recipe (LeapLabTHU/MLLA, downstream/detection/configs/mlla). It differs from the common one in:
# optim_wrapper (FP32), train_pipeline and train_dataloader (multi_scale_crop: short sides of 480 to 800 and random crops, as in
# a 3x).
_base_ = ['../mask-rcnn_mila-tiny_fpn_8xb2-amp-1x_coco.py', '../../_base_/datasets/multi_scale_crop.py']
recipe = 'native'
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='mmbackbones.OptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.))
train_pipeline = {{_base_.multi_scale_crop}}
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
