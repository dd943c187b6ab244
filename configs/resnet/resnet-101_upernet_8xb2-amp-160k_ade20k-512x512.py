_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/amp-160k_ade20k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.TimmBackbone',
        arch='resnet101.tv_in1k',
        bn_cfg=dict(type='SyncBN'),
        norm_cfg=None,
        drop_path_rate=0.0,
        init_cfg=dict(
            type='mmbackbones.Pretrained',
            checkpoint='zoo://resnet_101')),
    decode_head=dict(in_channels=[256, 512, 1024, 2048]),
    auxiliary_head=dict(in_channels=1024))
