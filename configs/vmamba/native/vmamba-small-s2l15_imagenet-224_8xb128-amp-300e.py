# The authors' released ImageNet recipe (MzeroMiko/VMamba, classification/config.py, main.py and configs), which is
# Swin's. It differs from the common one as tiny's does: in optim_wrapper, param_scheduler, custom_hooks, val_dataloader
# and test_dataloader with test_pipeline.
_base_ = 'vmamba-tiny-s1l8_imagenet-224_8xb128-amp-300e.py'
model = dict(backbone=dict(arch='small_s2l15', drop_path_rate=0.3), head=dict(in_channels=768))
