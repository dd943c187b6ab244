_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/amp-160k_ade20k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.TimmBackbone',
        arch=dict(name='focalnet_base_lrf.ms_in1k', focal_windows=(9, 9, 9, 9)),
        drop_path_rate=0.3,
        init_cfg=dict(
            type='mmbackbones.Pretrained',
            checkpoint='zoo://focalnet_base_lrf')),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512))
