# The authors' recipe (hunto/LocalMamba, segmentation/configs/local_mamba). It differs from the common one in:
# model.backbone.scan_inverse (theirs, which misplaces tokens on maps that are not square), optim_wrapper (6e-5).
_base_ = '../localvmamba-small_upernet_8xb2-amp-160k_ade20k-512x512.py'
recipe = 'native'
model = dict(backbone=dict(scan_inverse='official'))
optim_wrapper = dict(optimizer=dict(lr=6e-5))
