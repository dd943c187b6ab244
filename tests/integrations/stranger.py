"""A stranger's project: configs of the frameworks with a few lines of their own, trained without this package's runner.

Run by ``test_frameworks.py`` in another folder: ``stranger.py CONFIGS``, the folder of this project's configurations.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData

MINI = {  # arch, out_indices, channels and strides of the maps
    'VMamba': (dict(dims=(16, 32, 48, 64), depths=(1, 1, 1, 1)), (0, 1, 2, 3)),
    'MambaOut': (dict(dims=(16, 32, 48, 64), depths=(1, 1, 1, 1)), (0, 1, 2, 3)),
    'Vim': (dict(embed_dims=32, depth=4, patch_size=16), (3,)),
}
# What the user writes. The rest of the model is the framework's.
LINES = """
custom_imports = dict(imports=['mmbackbones'])
model = dict(
    backbone=dict(
        _delete_=True, type='mmbackbones.{kind}', arch={arch}, out_indices={out_indices},
        init_cfg=dict(type='Pretrained', checkpoint='{kind}.pth')),
    {rest})
"""
SIDE = 64


def config(package: str, path: str, kind: str, rest: str, out_indices: tuple[int, ...] | None = None) -> Config:
    """A config file of the framework, with the lines of the user."""
    root = next(Path(place, package) for place in sys.path if Path(place, package, '.mim').is_dir())
    arch, usual = MINI[kind]
    lines = LINES.format(kind=kind, arch=arch, out_indices=out_indices or usual, rest=rest)
    mine = Path(f'{package}_{Path(path).name}')
    mine.write_text(f'_base_ = {str(root / ".mim" / "configs" / path)!r}\n{lines}')
    return Config.fromfile(mine)


def save_weights() -> None:
    """Weights of each miniature, as a user has them: a file."""
    import mmbackbones
    from mmbackbones import backbones

    assert mmbackbones.__version__
    for kind, (arch, _) in MINI.items():
        net = getattr(backbones, kind)(arch=arch, out_indices=MINI[kind][1])
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        weights = net.state_dict()  # of a classifier: without the norms of the maps
        torch.save({key: x for key, x in weights.items() if not key.startswith('outnorm')}, f'{kind}.pth')


def one_step(cfg: Config, samples: Callable[[], list]) -> float:
    """Build, load the weights, train one step with the framework's own preprocessing. Returns the loss."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
        model.init_weights()
        saved = torch.load(cfg.model.backbone.init_cfg.checkpoint)
        loaded = model.backbone.state_dict()
        assert saved and all(torch.equal(loaded[key], x) for key, x in saved.items()), 'the weights are not loaded'
        before = {key: value.clone() for key, value in loaded.items()}
        batch = dict(inputs=[torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8) for _ in range(2)])
        batch['data_samples'] = samples()
        losses = model.train_step(batch, build_optim_wrapper(model, cfg.optim_wrapper))
    after = model.backbone.state_dict()
    moved = sum(not torch.equal(before[key], after[key]) for key, _ in model.backbone.named_parameters())
    assert moved > len(list(model.backbone.parameters())) // 2, f'only {moved} parameters moved'
    loss = float(losses['loss'])
    assert np.isfinite(loss)
    return loss


def boxes() -> list:
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes

    shape = dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE), pad_shape=(SIDE, SIDE), scale_factor=(1, 1))
    samples = []
    for _ in range(2):
        sample = DetDataSample(metainfo=dict(shape, batch_input_shape=(SIDE, SIDE)))
        found = HorizontalBoxes(torch.tensor([[4.0, 4.0, 40.0, 44.0], [20.0, 10.0, 60.0, 50.0]]))
        sample.gt_instances = InstanceData(bboxes=found, labels=torch.tensor([1, 7]))
        sample.ignored_instances = InstanceData(bboxes=HorizontalBoxes(torch.zeros(0, 4)), labels=torch.zeros(0).long())
        samples.append(sample)
    return samples


def maps() -> list:
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE)))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 19, (1, SIDE, SIDE)))
        samples.append(sample)
    return samples


def classes() -> list:
    from mmpretrain.structures import DataSample

    return [DataSample().set_gt_label(label) for label in (3, 5)]


def train() -> dict[str, float]:
    """One step of each: detectors, segmentors, a classifier."""
    crop = f'data_preprocessor=dict(size=({SIDE}, {SIDE}))'
    upernet = 'pretrained=None, decode_head=dict(in_channels=[16, 32, 48, 64]), auxiliary_head=dict(in_channels=48)'
    neck = 'neck=dict(in_channels=[16, 32, 48, 64])'
    pyramid = (
        "neck=dict(_delete_=True, type='mmbackbones.SimpleFeaturePyramid', in_channels=32, out_channels=256,"
        ' scales=(4.0, 2.0, 1.0, 0.5), num_outs=5, norm_cfg=None)'
    )
    segformer = 'decode_head=dict(in_channels=[16, 32, 48, 64])'
    chosen = {
        'RetinaNet': (('mmdet', 'retinanet/retinanet_r50_fpn_1x_coco.py', 'VMamba', neck), boxes),
        'Faster R-CNN': (('mmdet', 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'Vim', pyramid), boxes),
        'SegFormer': (
            ('mmseg', 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', 'VMamba', f'{segformer}, {crop}'),
            maps,
        ),
        'UperNet': (
            ('mmseg', 'upernet/upernet_r50_4xb4-160k_ade20k-512x512.py', 'MambaOut', f'{upernet}, {crop}'),
            maps,
        ),
        'classifier': (
            ('mmpretrain', 'resnet/resnet50_8xb32_in1k.py', 'VMamba', 'head=dict(in_channels=64)', (3,)),
            classes,
        ),
    }
    first = config(*chosen['RetinaNet'][0])
    assert 'mmbackbones' in sys.modules and 'mmbackbones.backbones' not in sys.modules  # light until a model is built
    assert first.model.backbone.type == 'mmbackbones.VMamba'
    save_weights()
    return {name: one_step(config(*args), samples) for name, (args, samples) in chosen.items()}


def infer(configs: Path) -> dict[str, str]:
    """``mmdet.apis`` and ``mmseg.apis`` with configs and a checkpoint of this project."""
    from mmdet.apis import inference_detector, init_detector
    from mmseg.apis import inference_model, init_model

    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    results = {}
    for name, file, init, infer in (
        ('detector', 'quickstart/mask-rcnn_1xb4-300_shapes-coco.py', init_detector, inference_detector),
        ('segmentor', 'quickstart/upernet_1xb8-500_shapes-ade20k-128x128.py', init_model, inference_model),
    ):
        cfg = Config.fromfile(configs / file)
        # As in a config of full size: weights that cannot be there. The checkpoint has all, so none are asked for.
        cfg.model.backbone.init_cfg = dict(type='mmbackbones.Pretrained', checkpoint='nowhere.pth')
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            plain = MODELS.build({**cfg.model, 'backbone': {**cfg.model.backbone, 'init_cfg': None}})
        dataset_meta = dict(classes=('a', 'b', 'c'), palette=[(0, 0, 0), (9, 9, 9), (99, 99, 99)])
        torch.save(dict(state_dict=plain.state_dict(), meta=dict(dataset_meta=dataset_meta)), f'{name}.pth')
        model = init(cfg, f'{name}.pth', device='cpu')
        key, value = next(iter(plain.backbone.state_dict().items()))
        assert torch.equal(model.backbone.state_dict()[key], value)
        found = infer(model, image)
        results[name] = f'{type(found).__name__} {tuple(found.ori_shape)}'
    return results


if __name__ == '__main__':
    torch.manual_seed(0)
    print(json.dumps({**train(), **infer(Path(sys.argv[1]))}))
