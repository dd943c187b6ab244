# The authors' recipe (ChenhongyiYang/PlainMamba, downstream/mmdetection). It differs from the common one in:
# model (a ViT-Adapter around the trunk; batch norms in it, in the FPN and in a box head of four convolutions),
# param_scheduler (warmup of 500 iterations), optim_wrapper (FP32; biases do not decay), train_dataloader (images without
# objects stay).
_base_ = '../mask-rcnn_plainmamba-l1_sfp_8xb2-amp-1x_coco.py'
recipe = 'native'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmbackbones.PlainMambaAdapter',
        arch='L1',
        drop_path_rate=0.1,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        init_cfg=dict(type='mmbackbones.Pretrained', checkpoint='zoo://plainmamba_l1')),
    neck=dict(
        _delete_=True,
        type='FPN',
        in_channels=[192] * 4,
        out_channels=256,
        num_outs=5,
        norm_cfg=dict(type='SyncBN', requires_grad=True)),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', norm_cfg=dict(type='SyncBN', requires_grad=True))))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='mmbackbones.OptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))
train_dataloader = dict(dataset=dict(filter_cfg=dict(filter_empty_gt=False)))
