# The authors' recipe (hunto/LocalMamba, detection/configs/local_mamba). It differs from the common one in:
# model.backbone.scan_inverse (theirs, which misplaces tokens on maps that are not square).
_base_ = '../mask-rcnn_localvmamba-tiny_fpn_8xb2-amp-1x_coco.py'
recipe = 'native'
model = dict(backbone=dict(scan_inverse='official'))
