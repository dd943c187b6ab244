_base_ = 'mask-rcnn_mambaout-mini_fpn_1xb4-300_shapes-coco.py'
model = dict(
    backbone=dict(type='mmbackbones.GatedMixerNet', mixers=('none', 'pointwise:ss2d', ('ss2d', 'attn'), 'ss2d')))
