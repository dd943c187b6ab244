# The isotropic net as wide as Vim-small: see the tiny one for the head.
_base_ = 'isotropic-tiny_fcn-1x1_8xb2-amp-160k_ade20k-512x512.py'
model = dict(
    backbone=dict(arch='small'),
    decode_head=dict(in_channels=[384, 384, 384, 384], channels=1536))
