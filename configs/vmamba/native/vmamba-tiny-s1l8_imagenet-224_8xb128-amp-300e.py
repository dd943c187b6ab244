# The authors' released ImageNet recipe (MzeroMiko/VMamba, classification/config.py, main.py and configs), which is
# Swin's. It differs from the common one in: optim_wrapper (AdamW 5e-4 x 1024 / 512, gradient norm at most 5, no
# accumulation), param_scheduler (warm-up from 1e-6), custom_hooks (average of weights, decay 0.9999), val_dataloader and
# test_dataloader with test_pipeline (crop ratio 0.875).
_base_ = '../../tasks/imagenet-224.py'
recipe = 'native'
model = dict(
    backbone=dict(
        type='mmbackbones.VMamba',
        arch='tiny_s1l8',
        norm_cfg=None,
        out_indices=(3,),
        drop_path_rate=0.2,
        init_cfg=None),
    head=dict(family='VMamba', in_channels=768, arch=None))
optim_wrapper = dict(
    accumulative_counts=1, optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=5., norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR', T_max=280, eta_min=1e-5, by_epoch=True, begin=20, end=300, convert_to_iter_based=True),
]
custom_hooks = [dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')]
auto_scale_lr = dict(base_batch_size=1024)

test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
