"""The wrapped baselines measure what is published: million parameters and GMACs of whole detectors and segmentors."""

import importlib
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from mmbackbones.analysis.complexity.count import count_complexity
from mmbackbones.engine.config import load_config
from tests.conftest import ROOT

NAMES = {'coco': 'mask-rcnn_{}_fpn_8xb2-amp-1x_coco.py', 'ade20k': '{}_upernet_8xb2-amp-160k_ade20k-512x512.py'}
PUBLISHED = {  # those whose heads and necks are the authors'; sources stand in the READMEs
    'coco': {
        'convnext/convnext-tiny': (48, 262),
        'convnext/convnext-small': (70, 348),
        'convnext/convnext-base': (108, 486),
        'swin/swin-tiny': (48, 267),
        'swin/swin-small': (69, 354),
        'swin/swin-base': (107, 496),
        'pvtv2/pvtv2-b2': (45, 309),
        'pvtv2/pvtv2-b3': (65, 397),
        'pvtv2/pvtv2-b5': (102, 557),
        'focalnet/focalnet-tiny-lrf': (49, 268),
        'focalnet/focalnet-small-lrf': (72, 365),
        'focalnet/focalnet-base-lrf': (111, 507),
        'resnet/resnet-50': (44, 260),
        'resnet/resnet-101': (63, 336),
    },
    'ade20k': {
        'convnext/convnext-tiny': (60, 939),
        'convnext/convnext-small': (82, 1027),
        'convnext/convnext-base': (122, 1170),
        'swin/swin-tiny': (60, 945),
        'swin/swin-small': (81, 1038),
        'swin/swin-base': (121, 1188),
        'focalnet/focalnet-tiny-lrf': (61, 949),
        'focalnet/focalnet-small-lrf': (84, 1044),
        'focalnet/focalnet-base-lrf': (126, 1192),
        'metaformer/convformer-s18': (54, 925),
        'metaformer/convformer-s36': (67, 1003),
        'metaformer/convformer-m36': (85, 1113),
        'metaformer/caformer-s18': (54, 1024),
        'metaformer/caformer-s36': (67, 1197),
        'metaformer/caformer-m36': (84, 1346),
        'resnet/resnet-50': (67, 953),
        'resnet/resnet-101': (85, 1030),
    },
}
# Their READMEs print the parts and say what the published figure contradicts or counts otherwise.
OTHER_COUNT = {('coco', 'swin/swin-small'), ('coco', 'swin/swin-base'), ('coco', 'focalnet/focalnet-tiny-lrf')}
ROWS = [(task, network) for task, networks in PUBLISHED.items() for network in networks]


def path_of(task: str, network: str) -> Path:
    folder, name = network.split('/')
    return ROOT / 'configs' / folder / NAMES[task].format(name)


def test_every_published_baseline_has_a_row():
    rows = {path_of(*row) for row in ROWS}
    others = {path for row in rows for path in row.parent.glob('*.py')} - rows
    assert all(path.exists() for path in rows)
    assert {path.name.split('_')[1] for path in others if path.name.startswith('mask-rcnn')} == {
        f'{mixer}former-{size}' for mixer in ('conv', 'ca') for size in ('s18', 's36', 'm36')
    }
    assert {path.name.split('_')[0] for path in others} - {'mask-rcnn'} == {'pvtv2-b2', 'pvtv2-b3', 'pvtv2-b5'}


@pytest.mark.parametrize(('task', 'network'), ROWS)
def test_parameters(task, network):
    cfg = load_config(str(path_of(task, network)))
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
        importlib.import_module(f'{cfg.default_scope}.models')
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(PUBLISHED[task][network][0], rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(('task', 'network'), ROWS)
def test_macs(task, network):
    macs = count_complexity(load_config(str(path_of(task, network)))).macs['total'] / 1e9
    assert macs == pytest.approx(PUBLISHED[task][network][1], rel=0.02 if (task, network) in OTHER_COUNT else 0.01)


@pytest.mark.parametrize('size', ['tiny', 'small'])
def test_deit_has_vims_necks(size):
    """The twins: the same pyramid on maps of the same stride and width."""
    for task in ('mask-rcnn_{}-{}_sfp_8xb2-amp-1x_coco.py', '{}-{}_upernet_8xb2-amp-160k_ade20k-512x512.py'):
        deit, vim = (
            load_config(str(ROOT / 'configs' / family / task.format(family, size))).model for family in ('deit', 'vim')
        )
        assert deit.neck == vim.neck
        assert deit.get('decode_head') == vim.get('decode_head')
        maps = [MODELS.build({**model.backbone, 'init_cfg': None}) for model in (deit, vim)]
        assert maps[0].out_strides == maps[1].out_strides and maps[0].out_channels == maps[1].out_channels
