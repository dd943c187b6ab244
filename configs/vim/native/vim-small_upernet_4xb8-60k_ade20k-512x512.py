# The authors' released recipe (hustvl/Vim, seg/configs/vim/upernet and seg/scripts). Sources conflict: the paper says
# 160k iterations, 6e-5 and 0.01; the layer decay is the training script's, which overrides the config (0.92).
# It differs from the common one in: model.backbone (raw maps, out_feature, rope), head widths, test_cfg (sliding
# window), optim_wrapper (FP32, AdamW 1e-4, 0.05, layer-wise decay, no decay of biases), param_scheduler and train_cfg
# (60k iterations), train_dataloader.batch_size (4 GPUs with eight images each).
_base_ = '../vim-small_upernet_8xb2-amp-160k_ade20k-512x512.py'
recipe = 'native'
model = dict(
    backbone=dict(norm_cfg=None, out_feature='residual', divide_out=False, rope=True),
    decode_head=dict(channels=384),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='mmbackbones.OptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0., layer_decay_rate=0.95))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, end=60000, by_epoch=False),
]
train_cfg = dict(max_iters=60000, val_interval=6000)
train_dataloader = dict(batch_size=8)
auto_scale_lr = dict(base_batch_size=32)
default_hooks = dict(checkpoint=dict(interval=6000))
