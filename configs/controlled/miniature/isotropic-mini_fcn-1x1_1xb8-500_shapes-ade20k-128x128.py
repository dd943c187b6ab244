_base_ = '../../quickstart/upernet_1xb8-500_shapes-ade20k-128x128.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmbackbones.IsotropicMixerNet',
        arch=dict(embed_dims=64, depth=4, patch_size=8),
        mixers='attn',
        img_size=128,
        out_indices=(0, 1, 2, 3),
        init_cfg=None),
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=[64, 64, 64, 64],
        in_index=[0, 1, 2, 3],
        input_transform='resize_concat',
        channels=256,
        num_convs=0,
        kernel_size=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=4,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=None)
