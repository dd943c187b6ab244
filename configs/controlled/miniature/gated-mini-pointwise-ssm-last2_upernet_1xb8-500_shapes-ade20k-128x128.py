_base_ = 'gated-mini-none_upernet_1xb8-500_shapes-ade20k-128x128.py'
model = dict(backbone=dict(mixers=('none', 'none', 'pointwise:ssm', 'pointwise:ssm')))
