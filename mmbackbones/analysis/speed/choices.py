"""What the options of the measurements choose from. Imports nothing."""

# Configs by name, of the trainings from end to end.
BASIC = (
    'mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py',
    'vim/mask-rcnn_vim-tiny_sfp_8xb2-amp-1x_coco.py',
    'vmamba/mask-rcnn_vmamba-tiny-s1l8_fpn_8xb2-amp-1x_coco.py',
    'mambaout/mambaout-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
    'vim/vim-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
    'vmamba/vmamba-tiny-s1l8_upernet_8xb2-amp-160k_ade20k-512x512.py',
)
