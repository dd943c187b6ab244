_base_ = 'gated-tiny-none_upernet_8xb2-amp-160k_ade20k-512x512.py'
model = dict(backbone=dict(mixers='pointwise:attn'))
