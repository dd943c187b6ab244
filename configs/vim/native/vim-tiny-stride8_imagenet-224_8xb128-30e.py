# The authors' fine-tuning for long sequences (hustvl/Vim, vim/main.py and vim/scripts/ft-vim-t.sh): patches overlap,
# with half the stride, so that 224 px have 27 x 27 patches. It starts from tiny's weights; their table of positions is
# resized. The authors resize it as if the class token's row were the first; here it keeps its row in the middle.
# It differs from the common recipe as tiny's pretraining does: in optim_wrapper (here AdamW 5e-6 x 1024 / 512, weight
# decay 1e-8), param_scheduler (here none: the smallest rate of the schedule, 1e-5, is its largest), train_cfg (30
# epochs), load_from, train_dataloader, custom_hooks, val_dataloader and test_dataloader with test_pipeline.
_base_ = 'vim-tiny_imagenet-224_8xb128-300e.py'
model = dict(backbone=dict(arch='tiny_stride8', pad_patches=False))
optim_wrapper = dict(optimizer=dict(lr=1e-5, weight_decay=1e-8))
param_scheduler = None
train_cfg = dict(max_epochs=30, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1))
load_from = 'zoo://vim_tiny'
