# The same with neck and head of size tiny: 96 channels and one block per node. The augmentation is that of size l.
_base_ = './rtmdet-ins_100e_coco.py'
model = dict(neck=dict(out_channels=96, num_csp_blocks=1), bbox_head=dict(in_channels=96, feat_channels=96))
