# The common ImageNet recipe: AdamW 4e-3 for 4,096 images, 300 epochs, 20 of warm-up, cosine to 1e-5, FP16, no average of
# weights. 4,096 images = 8 GPUs x 128 x 4 batches whose gradients are accumulated.
# Source: MambaOut, Table 5; yuweihao/MambaOut scripts/train_mambaout_tiny.sh and the defaults of its train.py. Those also
# add timm's 10 epochs at the smallest rate, of which the paper says nothing.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

param_scheduler = [
    dict(type='LinearLR', start_factor=2.5e-4, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        T_max=280,
        eta_min=1e-5,
        by_epoch=True,
        begin=20,
        end=300,
        convert_to_iter_based=True),
]
optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale='dynamic',
    accumulative_counts=4,
    constructor='mmbackbones.OptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=4e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))
auto_scale_lr = dict(enable=False, base_batch_size=4096)

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mmbackbones.CheckpointHook', interval=10, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    numerics=dict(type='mmbackbones.NumericsHook', max_skips=0),
    preemption=dict(type='mmbackbones.PreemptionHook'),
    watchdog=dict(type='mmbackbones.WatchdogHook', timeout=1800))
log_processor = dict(type='LogProcessor', window_size=100, by_epoch=True)
