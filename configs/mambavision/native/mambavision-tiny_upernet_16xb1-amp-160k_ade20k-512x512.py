# The authors' recipe (NVlabs/MambaVision, semantic_segmentation/configs). It differs from the common one in:
# optim_wrapper (learning rate 5e-5), train_dataloader.batch_size (16 GPUs with one image each).
_base_ = '../mambavision-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py'
recipe = 'native'
optim_wrapper = dict(optimizer=dict(lr=5e-5))
train_dataloader = dict(batch_size=1)
