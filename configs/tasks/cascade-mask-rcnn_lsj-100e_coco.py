# ViTDet's Cascade Mask R-CNN, 100 epochs on COCO at 1024 px, with any backbone of the zoo: --backbone vim_tiny
_base_ = [
    '../_base_/models/cascade-mask-rcnn_vitdet.py',
    '../_base_/datasets/coco_instance_lsj-1024.py',
    '../_base_/schedules/amp-lsj-100e_coco.py',
    '../_base_/default_runtime.py',
]
