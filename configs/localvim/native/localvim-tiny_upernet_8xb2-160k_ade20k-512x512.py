# The authors' recipe (hunto/LocalMamba, segmentation). It differs from the common one in: model.backbone (their scan
# inverse; LayerNorm in blocks that were trained with RMSNorm, so its biases stay at zero), model.neck (none: all maps
# keep stride 16), the auxiliary head's input (the last map), optim_wrapper (6e-5, FP32).
_base_ = '../localvim-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'
recipe = 'native'
model = dict(
    backbone=dict(scan_inverse='official', block_norm='layer'),
    neck=None,
    auxiliary_head=dict(in_index=3))
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='mmbackbones.OptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.))
