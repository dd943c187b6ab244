_base_ = 'upernet_base.py'
model = dict(
    backbone=dict(
        type='mmbackbones.TimmBackbone',
        arch=dict(
            name='deit_tiny_patch16_224', img_size=128, patch_size=8, embed_dim=64, depth=4, num_heads=4),
        out_indices=(0, 1, 2, 3),
        init_cfg=None),
    neck=dict(
        type='Feature2Pyramid', embed_dim=64, rescales=[2, 1, 0.5, 0.25], norm_cfg=dict(type='SyncBN', requires_grad=True)),
    decode_head=dict(in_channels=[64, 64, 64, 64]),
    auxiliary_head=dict(in_channels=64))
