# The authors' recipe; mask-rcnn_plainmamba-l1_adapter_8xb2-1x_coco.py says how it differs from the common one.
_base_ = './mask-rcnn_plainmamba-l1_adapter_8xb2-1x_coco.py'
model = dict(
    backbone=dict(
        arch='L2',
        drop_path_rate=0.2,
        init_cfg=dict(checkpoint='hf://ChenhongyiYang/PlainMamba/l2.pth')),
    neck=dict(in_channels=[384] * 4))
