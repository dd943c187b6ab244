# The authors' recipe (hunto/LocalMamba, segmentation/configs/local_mamba). It differs from the common one in:
# model.backbone.scan_inverse (theirs, which misplaces tokens on maps that are not square), optim_wrapper (6e-5, FP32).
_base_ = '../localvmamba-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'
recipe = 'native'
model = dict(backbone=dict(scan_inverse='official'))
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='mmbackbones.OptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.))
