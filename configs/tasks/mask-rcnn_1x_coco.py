# Mask R-CNN, 12 epochs on COCO, under the common recipe, with any backbone of the zoo: --backbone vmamba_tiny_s1l8
_base_ = [
    '../_base_/models/mask-rcnn_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/amp-1x_coco.py',
    '../_base_/default_runtime.py',
]
