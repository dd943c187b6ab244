_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/amp-160k_ade20k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.RAVLT',
        arch='base',
        drop_path_rate=0.4,
        init_cfg=dict(
            type='mmbackbones.Pretrained',
            checkpoint='zoo://ravlt_base')),
    decode_head=dict(in_channels=[96, 192, 384, 512]),
    auxiliary_head=dict(in_channels=384))
