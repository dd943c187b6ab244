_base_ = 'mask-rcnn_base.py'
model = dict(
    backbone=dict(
        type='mmbackbones.TimmBackbone',
        arch=dict(
            name='deit_tiny_patch16_224', img_size=160, patch_size=8, embed_dim=64, depth=4, num_heads=4),
        out_indices=(3,),
        init_cfg=None),
    neck=dict(
        _delete_=True,
        type='mmbackbones.SimpleFeaturePyramid',
        in_channels=64,
        out_channels=64,
        scales=(2, 1, 0.5, 0.25),
        num_outs=5,
        norm_cfg=None))  # as Vim, whose twin it is
