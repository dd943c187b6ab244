# A head without context: one 1x1 convolution over the four maps, no pooling, no norm, no auxiliary head.
_base_ = 'gated-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'
model = dict(
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=[96, 192, 384, 576],
        in_index=[0, 1, 2, 3],
        input_transform='resize_concat',
        channels=1248,
        num_convs=0,
        kernel_size=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=None)
