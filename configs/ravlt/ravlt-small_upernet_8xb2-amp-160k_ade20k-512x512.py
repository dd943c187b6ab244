_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/amp-160k_ade20k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.RAVLT',
        arch='small',
        drop_path_rate=0.15,
        init_cfg=dict(
            type='mmbackbones.Pretrained',
            checkpoint='zoo://ravlt_small')),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320))
