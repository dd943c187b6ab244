# The quickstart's detector under its full name, for configs of your own that build on it.
_base_ = 'mask-rcnn_1xb4-300_shapes-coco.py'
