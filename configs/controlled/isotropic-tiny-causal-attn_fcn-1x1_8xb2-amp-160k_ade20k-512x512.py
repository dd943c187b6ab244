_base_ = 'isotropic-tiny-attn_fcn-1x1_8xb2-amp-160k_ade20k-512x512.py'
model = dict(backbone=dict(mixers='causal-attn'))
