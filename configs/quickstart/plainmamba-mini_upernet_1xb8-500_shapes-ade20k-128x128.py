# The quickstart's segmentor with the zoo's plainmamba_mini under its full name, for configs of your own that build on it.
_base_ = 'vim-mini_upernet_1xb8-500_shapes-ade20k-128x128.py'  # for its pyramid
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmbackbones.PlainMamba',
        arch=dict(embed_dims=64, depth=4, patch_size=8),
        img_size=128,
        out_indices=(0, 1, 2, 3),
        init_cfg=None,
    ),
)
