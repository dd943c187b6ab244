# UperNet cut down to what a CPU core trains in a minute. A quickstart config adds backbone and in_channels.
_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/shapes_ade20k.py',
    '../_base_/schedules/amp-160k_ade20k.py',
    '../_base_/default_runtime.py',
]
recipe = 'quickstart'
num_classes = 4
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    decode_head=dict(channels=64, num_classes=num_classes),
    auxiliary_head=dict(channels=64, num_classes=num_classes))

train_cfg = dict(max_iters=500, val_interval=1000)
val_cfg, val_dataloader, val_evaluator = None, None, None  # the final test is enough
optim_wrapper = dict(optimizer=dict(lr=4e-3), clip_grad=dict(max_norm=10., norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type='PolyLR', eta_min=0., power=1.0, by_epoch=False, begin=30, end=500),
]
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=100))
log_processor = dict(window_size=25)
