_base_ = '../../quickstart/upernet_1xb8-500_shapes-ade20k-128x128.py'
model = dict(backbone=dict(type='mmbackbones.GatedMixerNet', mixers='none'))
