# The authors' released ImageNet recipe (hustvl/Vim, vim/main.py and vim/scripts/pt-vim-t.sh), which is DeiT's.
# It differs from the common one in: optim_wrapper (FP32, AdamW 5e-4 x 1024 / 512, weight decay 0.1, no accumulation),
# param_scheduler (5 epochs of warm-up), train_dataloader (three augmentations of each image), custom_hooks (average of
# weights, decay 0.99996), val_dataloader and test_dataloader with test_pipeline (crop ratio 0.875).
# The paper states a weight decay of 0.05.
_base_ = '../../tasks/imagenet-224.py'
recipe = 'native'
model = dict(
    backbone=dict(
        type='mmbackbones.Vim',
        arch='tiny',
        norm_cfg=None,
        out_indices=(23,),
        drop_path_rate=0.0,
        with_cls_token=True,
        out_type='cls_token',
        init_cfg=None),
    head=dict(family='Vim', in_channels=192, arch=None))
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='mmbackbones.OptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR', T_max=295, eta_min=1e-5, by_epoch=True, begin=5, end=300, convert_to_iter_based=True),
]
custom_hooks = [dict(type='EMAHook', momentum=4e-5, priority='ABOVE_NORMAL')]
train_dataloader = dict(sampler=dict(_delete_=True, type='RepeatAugSampler', num_repeats=3, shuffle=True))
auto_scale_lr = dict(base_batch_size=1024)

test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
