# The authors' recipe (LeapLabTHU/ViTTT, detection/configs/vittt). It differs from the common one in:
# optim_wrapper (learning rate 2e-4), train_dataloader.batch_size (four images per GPU; the number of GPUs is not stated),
# train_pipeline (multi_scale_crop: short sides from 480 to 800 px and random crops, which others use with 36 epochs).
_base_ = ['../mask-rcnn_hvittt-small_fpn_8xb2-amp-1x_coco.py', '../../_base_/datasets/multi_scale_crop.py']
recipe = 'native'
optim_wrapper = dict(optimizer=dict(lr=2e-4))
train_pipeline = {{_base_.multi_scale_crop}}
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
auto_scale_lr = dict(base_batch_size=32)
