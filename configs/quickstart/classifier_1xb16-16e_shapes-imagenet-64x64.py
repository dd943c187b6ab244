# A classifier that a CPU core trains in a minute, with a miniature MambaOut: the zoo's mambaout_mini.
# --backbone vmamba_mini trains another one; mmbackbones/zoo/miniatures.csv lists them.
_base_ = [
    '../_base_/models/imagenet_classifier.py',
    '../_base_/datasets/shapes_imagenet.py',
    '../_base_/schedules/amp-300e_imagenet.py',
    '../_base_/default_runtime.py',
]
recipe = 'quickstart'
num_classes = 6
model = dict(
    data_preprocessor=dict(num_classes=num_classes),
    backbone=dict(
        type='mmbackbones.MambaOut',
        arch=dict(depths=(1, 1, 3, 1), dims=(16, 32, 48, 64)),
        norm_cfg=None,
        out_indices=(3,),
        drop_path_rate=0.0,
        init_cfg=None),
    head=dict(family='MambaOut', in_channels=64, arch=None, num_classes=num_classes),
    train_cfg=None)

train_cfg = dict(max_epochs=16, val_interval=20)
val_cfg, val_dataloader, val_evaluator = None, None, None  # the final test is enough
optim_wrapper = dict(accumulative_counts=1, optimizer=dict(lr=4e-3), clip_grad=dict(max_norm=10., norm_type=2))
auto_scale_lr = dict(base_batch_size=16)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=15),
    dict(
        type='CosineAnnealingLR', T_max=15, by_epoch=True, begin=1, end=16, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=15), checkpoint=dict(interval=4))
log_processor = dict(window_size=15)
