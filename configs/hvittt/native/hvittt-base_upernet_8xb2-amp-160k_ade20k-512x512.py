# The authors' recipe (LeapLabTHU/ViTTT, segmentation/configs/vittt). It differs from the common one in:
# optim_wrapper (learning rate 6e-5).
_base_ = '../hvittt-base_upernet_8xb2-amp-160k_ade20k-512x512.py'
recipe = 'native'
optim_wrapper = dict(optimizer=dict(lr=6e-5))
