# A pipeline for COCO training: short sides of 480 to 800, half of the images cropped first, as Swin's detectors have it for 36
# epochs. Source: mmdetection configs/swin. A config that takes it names it twice: train_pipeline and train_dataloader.
short_sides = [(side, 1333) for side in range(480, 801, 32)]
multi_scale_crop = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [dict(type='RandomChoiceResize', scales=short_sides, keep_ratio=True)],
            [
                dict(type='RandomChoiceResize', scales=[(400, 1333), (500, 1333), (600, 1333)], keep_ratio=True),
                dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True),
                dict(type='RandomChoiceResize', scales=short_sides, keep_ratio=True),
            ],
        ]),
    dict(type='PackDetInputs'),
]
del short_sides
