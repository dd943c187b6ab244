_base_ = '../mambaout/mambaout-small_upernet_8xb2-amp-160k_ade20k-512x512.py'
model = dict(backbone=dict(type='mmbackbones.GatedMixerNet', mixers='none'))
