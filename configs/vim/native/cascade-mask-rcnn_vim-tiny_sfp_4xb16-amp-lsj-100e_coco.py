# The authors' recipe (hustvl/Vim, det/projects/ViTDet/configs/COCO/cascade_mask_rcnn_vimdet_t_100ep_adj1.py and det/scripts).
# Sources conflict: the paper says 380k iterations. It differs from the common one in: model.backbone (raw residual stream,
# rotary code, position table of 1024 px), optim_wrapper (layer-wise decay of the learning rate), train_dataloader.batch_size
# (4 GPUs with 16 images each). Their losses of the cascade have equal weights; a third of the gradient goes on.
_base_ = '../../tasks/cascade-mask-rcnn_lsj-100e_coco.py'
recipe = 'native'
model = dict(
    backbone=dict(
        type='mmbackbones.Vim',
        arch='tiny',
        out_indices=(23,),
        img_size=1024,
        norm_cfg=None,
        rope=True,
        drop_path_rate=0.1,
        init_cfg=dict(type='mmbackbones.Pretrained', checkpoint='zoo://vim_tiny')),
    neck=dict(in_channels=192, scales=(4, 2, 1, 0.5)))
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.837))
train_dataloader = dict(batch_size=16)
