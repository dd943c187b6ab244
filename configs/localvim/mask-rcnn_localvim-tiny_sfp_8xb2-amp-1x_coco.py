_base_ = [
    '../_base_/models/mask-rcnn_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/amp-1x_coco.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmbackbones.LocalVim',
        arch='tiny',
        scan_inverse='exact',
        out_indices=(19,),
        drop_path_rate=0.1,
        init_cfg=dict(
            type='mmbackbones.Pretrained',
            checkpoint='zoo://localvim_tiny')),
    neck=dict(
        _delete_=True,
        type='mmbackbones.SimpleFeaturePyramid',
        in_channels=192,
        out_channels=256,
        scales=(4, 2, 1, 0.5),
        num_outs=5,
        norm_cfg=None))
