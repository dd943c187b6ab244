# The authors' released ImageNet recipe (hustvl/Vim, vim/main.py and vim/scripts/pt-vim-s.sh), which is DeiT's.
# It differs from the common one as tiny's does: in optim_wrapper (here AdamW 1e-3 x 512 / 512, weight decay 0.05),
# param_scheduler, train_dataloader (here batch_size 64), custom_hooks, val_dataloader and test_dataloader with
# test_pipeline.
_base_ = 'vim-tiny_imagenet-224_8xb128-300e.py'
model = dict(backbone=dict(arch='small', drop_path_rate=0.05), head=dict(in_channels=384))
optim_wrapper = dict(optimizer=dict(weight_decay=0.05))
train_dataloader = dict(batch_size=64)
auto_scale_lr = dict(base_batch_size=512)
