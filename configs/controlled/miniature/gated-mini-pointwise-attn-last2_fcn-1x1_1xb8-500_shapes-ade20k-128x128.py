_base_ = 'gated-mini-none_fcn-1x1_1xb8-500_shapes-ade20k-128x128.py'
model = dict(backbone=dict(mixers=('none', 'none', 'pointwise:attn', 'pointwise:attn')))
