_base_ = '../../quickstart/mask-rcnn_1xb4-300_shapes-coco.py'
model = dict(backbone=dict(type='mmbackbones.GatedMixerNet', mixers='none'))
