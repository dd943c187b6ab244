"""Under the common recipe two configs of a task differ in their backbone and in nothing else."""

import csv
import re
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS

from tests.conftest import ROOT

CONFIGS = ROOT / 'configs'
OTHERS = ('_base_', 'quickstart', 'controlled')
COMMON = sorted(path for path in CONFIGS.glob('*/*.py') if path.parent.name not in OTHERS)
REFERENCE = {
    'coco': 'mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py',
    'ade20k': 'mambaout/mambaout-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
}
SINGLE_STRIDE = {'Mamba', 'Vim', 'LocalVim', 'PlainMamba', 'TimmBackbone deit'}  # their neck makes the pyramid
CHANNELS = ('model.neck.in_channels', 'model.decode_head.in_channels', 'model.auxiliary_head.in_channels')
UNIVERSAL = ('type', 'arch', 'init_cfg', 'drop_path_rate')


def flatten(node: object, prefix: str = '') -> dict[str, object]:
    if isinstance(node, dict) and node:
        return {name: value for key in node for name, value in flatten(node[key], f'{prefix}{key}.').items()}
    return {prefix[:-1]: node}


def task_of(path: Path) -> str:
    return 'coco' if path.stem.endswith('coco') else 'ade20k'


def family_and_variant(backbone: dict) -> tuple[str, str]:
    """The class and its variant; of timm's models the class beside the letters that timm's name begins with."""
    family, variant = backbone['type'].removeprefix('mmbackbones.'), backbone.get('arch', backbone.get('model'))
    if family == 'TimmBackbone':
        variant = variant['name'] if isinstance(variant, dict) else variant
        family += f' {re.match("[a-z]+", variant)[0]}'
    return family, str(variant)


def read_table(name: str) -> list[dict[str, str]]:
    with (CONFIGS / name).open(newline='') as file:
        return list(csv.DictReader(file))


def offences(cfg: Config, task: str) -> list[str]:
    """Keys in which ``cfg`` departs from the reference without leave."""
    reference = Config.fromfile(CONFIGS / REFERENCE[task])
    ours, theirs = flatten(cfg._cfg_dict.to_dict()), flatten(reference._cfg_dict.to_dict())
    differing = [key for key in ours.keys() | theirs.keys() if ours.get(key, ...) != theirs.get(key, ...)]
    family, _ = family_and_variant(cfg.model.backbone)
    declared = {(row['family'], row['option'], row['task'], row['value']) for row in read_table('backbone_options.csv')}
    bad = []
    for key in differing:
        if key.startswith('model.backbone.'):
            option = key.split('.')[2]
            value = str(cfg.model.backbone.get(option))
            given = option in cfg.model.backbone and option not in UNIVERSAL
            if given and (family, option, task, value) not in declared:
                bad.append(key)
        elif key not in CHANNELS and not (family in SINGLE_STRIDE and key.startswith('model.neck')):
            bad.append(key)
    return sorted(bad)


@pytest.mark.parametrize('path', COMMON, ids=lambda path: path.stem)
def test_nothing_but_the_backbone_differs(path):
    assert offences(Config.fromfile(path), task_of(path)) == []


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('optim_wrapper.optimizer.lr', 2e-4),
        ('model.backbone.with_cp', True),
        ('train_pipeline.2.scale', (1024, 512)),
        ('model.decode_head.channels', 256),
    ],
)
def test_an_unfair_config_is_caught_by_name(key, value):
    cfg = Config.fromfile(CONFIGS / REFERENCE['ade20k'])
    cfg.merge_from_dict({key: value})
    assert [found for found in offences(cfg, 'ade20k') if found.split('.')[0] == key.split('.')[0]]


@pytest.mark.parametrize('path', COMMON, ids=lambda path: path.stem)
def test_drop_path_comes_from_the_table(path):
    backbone = Config.fromfile(path).model.backbone
    rates = {(row['family'], row['variant'], row['task']): row for row in read_table('drop_path.csv')}
    row = rates[(*family_and_variant(backbone), task_of(path))]
    assert backbone.drop_path_rate == float(row['drop_path_rate'])
    assert row['source']


@pytest.mark.parametrize('path', COMMON, ids=lambda path: path.stem)
def test_weights_are_named_or_demanded(path):
    init_cfg = Config.fromfile(path).model.backbone.init_cfg
    assert init_cfg.type == 'mmbackbones.Pretrained'
    assert init_cfg.checkpoint is None or init_cfg.checkpoint.startswith(('https://', 'hf://'))


@pytest.mark.parametrize('path', COMMON, ids=lambda path: path.stem)
def test_the_name_says_recipe_and_batch(path):
    cfg = Config.fromfile(path)
    assert cfg.recipe == 'common'
    assert '_8xb2-amp-' in path.name and cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert ('1x' in path.name) == (cfg.train_cfg.get('max_epochs') == 12)
    assert ('160k' in path.name) == (cfg.train_cfg.get('max_iters') == 160000)


NATIVE = sorted(CONFIGS.glob('*/native/*.py'))


@pytest.mark.parametrize('path', NATIVE, ids=lambda path: path.stem)
def test_native_configs_name_their_source_and_differences(path):
    """What a native recipe changes stands in the comment at its top."""
    cfg = Config.fromfile(path)
    assert cfg.recipe == 'native'
    changed = {key.split('.')[0] for key in offences(cfg, task_of(path))} - {
        'recipe',
        'model',
        'train_pipeline',
        'auto_scale_lr',
        'default_hooks',
    }
    head = path.read_text().split('_base_')[0]
    assert head.startswith('# The authors')
    assert [key for key in changed if key not in head] == []


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*/metafile.yml')), ids=lambda path: path.parent.name)
def test_metafile_lists_every_config(path):
    listed = {ROOT / model['Config'] for model in yaml.safe_load(path.read_text())['Models']}
    assert listed == set(path.parent.glob('*.py')) | set(path.parent.glob('native/*.py'))


@pytest.mark.parametrize('path', [*COMMON, *NATIVE], ids=lambda path: path.stem)
def test_channels_fit_the_backbone(path):
    cfg = Config.fromfile(path)
    with torch.device('meta'):  # no memory, no initialization
        channels = list(MODELS.build({**cfg.model.backbone, 'init_cfg': None}).out_channels)
    if cfg.model.get('neck', None):
        wanted = cfg.model.neck.get('in_channels', cfg.model.neck.get('embed_dim'))
        assert channels == (wanted if isinstance(wanted, list) else [wanted] * len(channels))
    if 'decode_head' in cfg.model:
        assert channels == cfg.model.decode_head.in_channels
        assert channels[cfg.model.auxiliary_head.in_index] == cfg.model.auxiliary_head.in_channels
