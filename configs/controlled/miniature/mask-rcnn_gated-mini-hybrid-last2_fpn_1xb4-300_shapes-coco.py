_base_ = 'mask-rcnn_gated-mini-none_fpn_1xb4-300_shapes-coco.py'
model = dict(backbone=dict(mixers=('none', 'none', ('ss2d', 'attn'), 'ss2d')))
