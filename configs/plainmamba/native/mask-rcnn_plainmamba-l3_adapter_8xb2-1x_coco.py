# The authors' recipe, as in the config of L1, whose head says what param_scheduler, optim_wrapper and train_dataloader
# have of their own.
_base_ = './mask-rcnn_plainmamba-l1_adapter_8xb2-1x_coco.py'
model = dict(
    backbone=dict(
        arch='L3',
        num_heads=8,
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint='zoo://plainmamba_l3')),
    neck=dict(in_channels=[448] * 4))
