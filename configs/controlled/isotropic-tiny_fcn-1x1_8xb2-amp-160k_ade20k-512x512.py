# No weights exist: from scratch. Head as in the context-free arm of the hierarchical nets.
_base_ = '../mambaout/mambaout-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmbackbones.IsotropicMixerNet',
        arch='tiny',
        mixers='attn',
        img_size=512,
        out_indices=(5, 11, 17, 23),
        drop_path_rate=0.1,
        init_cfg=None),
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=[192, 192, 192, 192],
        in_index=[0, 1, 2, 3],
        input_transform='resize_concat',
        channels=768,
        num_convs=0,
        kernel_size=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=None)
