# The quickstart's segmentor under its full name, for configs of your own that build on it.
_base_ = 'upernet_1xb8-500_shapes-ade20k-128x128.py'
