_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/amp-160k_ade20k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.SpatialMamba',
        arch='base',
        drop_path_rate=0.5,
        # No verified address of published weights is known: set checkpoint to a file, or init_cfg=None for random weights.
        init_cfg=dict(type='mmbackbones.Pretrained', checkpoint=None)),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384))
