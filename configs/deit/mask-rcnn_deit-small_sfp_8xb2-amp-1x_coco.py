_base_ = [
    '../_base_/models/mask-rcnn_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/amp-1x_coco.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.TimmBackbone',
        arch='deit_small_patch16_224.fb_in1k',
        out_indices=(11,),
        drop_path_rate=0.1,
        init_cfg=dict(
            type='mmbackbones.Pretrained',
            checkpoint='zoo://deit_small')),
    neck=dict(
        _delete_=True,
        type='mmbackbones.SimpleFeaturePyramid',
        in_channels=384,
        out_channels=256,
        scales=(4, 2, 1, 0.5),
        num_outs=5,
        norm_cfg=None))
