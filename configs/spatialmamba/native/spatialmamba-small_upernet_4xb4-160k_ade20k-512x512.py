# The authors' recipe (EdwardChasel/Spatial-Mamba, segmentation configs). It differs from the common one in:
# optim_wrapper (learning rate 6e-5, FP32, as in the Swin configs that theirs inherit),
# train_dataloader.batch_size (4 GPUs with four images each, by their file names).
_base_ = '../spatialmamba-small_upernet_8xb2-amp-160k_ade20k-512x512.py'
recipe = 'native'
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='mmbackbones.OptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.))
train_dataloader = dict(batch_size=4)
