_base_ = 'gated-small-none_fcn-1x1_8xb2-amp-160k_ade20k-512x512.py'
model = dict(backbone=dict(mixers='causal-attn'))
