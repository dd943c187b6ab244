# The authors' recipe (EdwardChasel/Spatial-Mamba, detection configs). It differs from the common one in:
# optim_wrapper (FP32, as in the Swin configs that theirs inherit).
_base_ = '../mask-rcnn_spatialmamba-small_fpn_8xb2-amp-1x_coco.py'
recipe = 'native'
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='mmbackbones.OptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.))
