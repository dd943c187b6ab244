# The authors' recipe (DaiShiResearch/TransNeXt, segmentation/upernet). It differs from the common one in:
# model.test_cfg (sliding window, for the score of one scale), optim_wrapper (learning rate 6e-5, weight decay 0.05, FP32).
_base_ = '../transnext-base_upernet_8xb2-amp-160k_ade20k-512x512.py'
recipe = 'native'
model = dict(test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='mmbackbones.OptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.))
