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

# Of the benchmarks of scans and of mixers: names of torch's dtypes.
DTYPES = ('float32', 'bfloat16', 'float16')
# Of the measurement of networks. A precision -> the dtype of its autocast by torch's name, None without one.
PARTS, STEPS = ('backbone', 'model'), ('inference', 'training')
PRECISIONS = {'fp32': None, 'bf16': 'bfloat16', 'fp16': 'float16'}
