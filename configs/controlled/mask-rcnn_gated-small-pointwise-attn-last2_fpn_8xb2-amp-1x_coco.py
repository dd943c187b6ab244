_base_ = 'mask-rcnn_gated-small-none_fpn_8xb2-amp-1x_coco.py'
model = dict(backbone=dict(mixers=('none', 'none', 'pointwise:attn', 'pointwise:attn')))
