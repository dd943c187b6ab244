_base_ = 'gated-small-none_upernet_8xb2-amp-160k_ade20k-512x512.py'
model = dict(backbone=dict(mixers=('none', 'none', 'pointwise:ssm', 'pointwise:ssm')))
