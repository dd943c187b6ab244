_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/amp-160k_ade20k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.TransNeXt',
        arch='tiny',
        img_size=512,
        drop_path_rate=0.4,
        init_cfg=dict(
            type='mmbackbones.Pretrained',
            checkpoint='zoo://transnext_tiny')),
    decode_head=dict(in_channels=[72, 144, 288, 576]),
    auxiliary_head=dict(in_channels=288))
