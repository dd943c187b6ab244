# The authors' recipe (NVlabs/MambaVision, object_detection/configs/mamba_vision). It differs from the common one in:
# optim_wrapper (learning rate 2e-4). Those of tiny and small do not differ: --backbone mambavision_tiny with the task.
_base_ = '../../tasks/cascade-mask-rcnn_3x_coco.py'
recipe = 'native'
model = dict(
    backbone=dict(
        type='mmbackbones.MambaVision',
        arch='base',
        window_size=(112, 56),
        drop_path_rate=0.2,
        # No published weights file is known: set checkpoint to a file, or init_cfg=None for random weights.
        init_cfg=dict(type='mmbackbones.Pretrained', checkpoint=None)),
    neck=dict(in_channels=[128, 256, 512, 1024]))
optim_wrapper = dict(optimizer=dict(lr=2e-4))
