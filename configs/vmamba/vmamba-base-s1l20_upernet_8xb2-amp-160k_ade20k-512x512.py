_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/amp-160k_ade20k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.VMamba',
        arch='base_s1l20',
        drop_path_rate=0.6,
        init_cfg=dict(
            type='mmbackbones.Pretrained',
            checkpoint='zoo://vmamba_base_s1l20')),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512))
