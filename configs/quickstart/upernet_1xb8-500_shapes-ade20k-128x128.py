# UperNet cut down to what a CPU core trains in a minute, with a miniature MambaOut: the zoo's mambaout_mini.
# --backbone vmamba_mini trains another one; mmbackbones/zoo/miniatures.csv lists them.
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
    backbone=dict(
        type='mmbackbones.MambaOut',
        arch=dict(depths=(1, 1, 3, 1), dims=(16, 32, 48, 64)),
        init_cfg=None),
    decode_head=dict(in_channels=[16, 32, 48, 64], channels=64, num_classes=num_classes),
    auxiliary_head=dict(in_channels=48, channels=64, num_classes=num_classes))

train_cfg = dict(max_iters=500, val_interval=1000)
val_cfg, val_dataloader, val_evaluator = None, None, None  # the final test is enough
optim_wrapper = dict(optimizer=dict(lr=4e-3), clip_grad=dict(max_norm=10., norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type='PolyLR', eta_min=0., power=1.0, by_epoch=False, begin=30, end=500),
]
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=100))
log_processor = dict(window_size=25)
