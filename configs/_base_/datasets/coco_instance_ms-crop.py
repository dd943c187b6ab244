# COCO 2017 instances for 36 epochs: short side 480 to 800, or a random crop first (the augmentation of Swin's 3x). The test
# is that of coco_instance.py. Source: mmdetection configs/swin.
_base_ = ['./coco_instance.py', './multi_scale_crop.py']

train_pipeline = {{_base_.multi_scale_crop}}
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
