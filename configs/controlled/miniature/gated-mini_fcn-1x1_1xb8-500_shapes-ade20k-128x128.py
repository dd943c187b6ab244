# A head without context: one 1x1 convolution over the four maps, no pooling, no norm, no auxiliary head.
_base_ = 'gated-mini_upernet_1xb8-500_shapes-ade20k-128x128.py'
model = dict(
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=[16, 32, 48, 64],
        in_index=[0, 1, 2, 3],
        input_transform='resize_concat',
        channels=160,
        num_convs=0,
        kernel_size=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=4,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=None)
