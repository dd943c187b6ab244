# The quickstart's segmentor with the zoo's vim_mini under its full name, for configs of your own that build on it.
_base_ = 'upernet_1xb8-500_shapes-ade20k-128x128.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmbackbones.Vim',
        arch=dict(embed_dims=64, depth=4, patch_size=8),
        img_size=128,
        out_indices=(0, 1, 2, 3),
        init_cfg=None,
    ),
    neck=dict(
        type='Feature2Pyramid',
        embed_dim=64,
        rescales=[2, 1, 0.5, 0.25],
        norm_cfg=dict(type='SyncBN', requires_grad=True),
    ),
    decode_head=dict(in_channels=[64, 64, 64, 64]),
    auxiliary_head=dict(in_channels=64),
)
