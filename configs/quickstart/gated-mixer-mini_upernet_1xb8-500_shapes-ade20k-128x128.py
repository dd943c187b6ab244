_base_ = 'mambaout-mini_upernet_1xb8-500_shapes-ade20k-128x128.py'
model = dict(
    backbone=dict(type='mmbackbones.GatedMixerNet', mixers=('none', 'pointwise:ss2d', ('ss2d', 'attn'), 'ss2d')))
