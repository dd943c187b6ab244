# The authors' recipe (NVlabs/MambaVision, semantic_segmentation/configs). It differs from the common one in:
# optim_wrapper (learning rate 6e-5), model.backbone.window_size.
_base_ = '../mambavision-small_upernet_8xb2-amp-160k_ade20k-512x512.py'
recipe = 'native'
optim_wrapper = dict(optimizer=dict(lr=6e-5))
model = dict(backbone=dict(window_size=(160, 56)))
