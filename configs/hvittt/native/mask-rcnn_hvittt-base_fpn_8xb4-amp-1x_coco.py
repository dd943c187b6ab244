# The authors' recipe (LeapLabTHU/ViTTT, detection/configs/vittt). It differs from the common one in:
# optim_wrapper (learning rate 2e-4), train_dataloader.batch_size (four images per GPU; the number of GPUs is not stated),
# train_pipeline (short sides from 480 to 800 px and random crops, which others use with 36 epochs).
_base_ = '../mask-rcnn_hvittt-base_fpn_8xb2-amp-1x_coco.py'
recipe = 'native'
optim_wrapper = dict(optimizer=dict(lr=2e-4))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [
                dict(
                    type='RandomChoiceResize',
                    scales=[(side, 1333) for side in range(480, 801, 32)],
                    keep_ratio=True),
            ],
            [
                dict(type='RandomChoiceResize', scales=[(400, 1333), (500, 1333), (600, 1333)], keep_ratio=True),
                dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True),
                dict(
                    type='RandomChoiceResize',
                    scales=[(side, 1333) for side in range(480, 801, 32)],
                    keep_ratio=True),
            ],
        ]),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
auto_scale_lr = dict(base_batch_size=32)
