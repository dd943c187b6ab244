# Classifier of ImageNet-1K: 1,000 classes, label smoothing 0.1, mixup 0.8 or cutmix 1.0 in every batch.
# A config adds `model.backbone` and, in `model.head`, `family` and `in_channels`.
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmbackbones.integrations.mmpretrain_models'])

model = dict(
    type='mmbackbones.ImageClassifier',
    data_preprocessor=dict(
        type='ClsDataPreprocessor',
        num_classes=1000,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True),
    head=dict(
        type='mmbackbones.ClsHead',
        num_classes=1000,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))

vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends, name='visualizer')
