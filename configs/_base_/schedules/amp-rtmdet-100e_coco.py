# RTMDet's recipe for backbones other than its own: AdamW 1e-3, batch 128 (4 GPUs x 32), 100 epochs, cosine from epoch 50,
# FP16. Source: mmdetection configs/rtmdet (rtmdet_l_swin_b_4xb32-100e_coco.py), in FP32 there.
_base_ = './amp-1x_coco.py'

train_cfg = dict(max_epochs=100, val_interval=10, dynamic_intervals=[(90, 1)])
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-5, by_epoch=False, begin=0, end=1000),
    dict(
        type='CosineAnnealingLR',
        eta_min=5e-5,
        begin=50,
        end=100,
        T_max=50,
        by_epoch=True,
        convert_to_iter_based=True),
]
optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(bias_decay_mult=0.))
auto_scale_lr = dict(base_batch_size=128)
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=3))
