_base_ = 'mask-rcnn_base.py'
model = dict(
    backbone=dict(
        type='mmbackbones.IsotropicMixerNet',
        arch=dict(embed_dims=64, depth=4, patch_size=8),
        mixers=('attn', 'bissm'),
        img_size=160,
        out_indices=(3,),
        init_cfg=None),
    neck=dict(
        _delete_=True,
        type='mmbackbones.SimpleFeaturePyramid',
        in_channels=64,
        out_channels=64,
        scales=(2, 1, 0.5, 0.25),
        num_outs=5,
        norm_cfg=None))  # with norms, Vim's box head had learned nothing after 300 iterations
