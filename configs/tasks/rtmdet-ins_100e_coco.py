# RTMDet-Ins (size l), one stage, 100 epochs on COCO at 640 px, with any backbone of the zoo: --backbone vmamba_tiny_s1l8
_base_ = [
    '../_base_/models/rtmdet-ins.py',
    '../_base_/datasets/coco_instance_mosaic-640.py',
    '../_base_/schedules/amp-rtmdet-100e_coco.py',
    '../_base_/default_runtime.py',
]
# A moving average of the weights is tested. The last 10 epochs have neither mosaic nor mixup.
custom_hooks = [
    dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0002, update_buffers=True, priority=49),
    dict(type='PipelineSwitchHook', switch_epoch=90, switch_pipeline={{_base_.last_pipeline}}),
]
