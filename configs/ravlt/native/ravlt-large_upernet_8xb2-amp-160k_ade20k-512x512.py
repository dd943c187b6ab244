# The authors' recipe (qhfan/RALA, segmentation/configs/RALA). It differs from the common one in:
# optim_wrapper (learning rate 6e-5).
# They report the best of their checkpoints on the validation set; here the last one is reported.
_base_ = '../ravlt-large_upernet_8xb2-amp-160k_ade20k-512x512.py'
recipe = 'native'
optim_wrapper = dict(optimizer=dict(lr=6e-5))
