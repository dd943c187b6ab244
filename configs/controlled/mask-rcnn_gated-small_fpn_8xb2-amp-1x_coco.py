_base_ = '../mambaout/mask-rcnn_mambaout-small_fpn_8xb2-amp-1x_coco.py'
model = dict(backbone=dict(type='mmbackbones.GatedMixerNet', mixers='none'))
