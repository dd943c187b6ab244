# Cascade Mask R-CNN, 36 epochs on COCO, short sides 480 to 800 and crops, with any backbone of the zoo: --backbone mambavision_tiny
_base_ = [
    '../_base_/models/cascade-mask-rcnn_fpn.py',
    '../_base_/datasets/coco_instance_ms-crop.py',
    '../_base_/schedules/amp-3x_coco.py',
    '../_base_/default_runtime.py',
]
