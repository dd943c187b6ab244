"""Under the common recipe two configs of a task differ in their backbone and in nothing else."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmbackbones.engine.config import PLACE_KEYS, config_hash, load_config
from mmbackbones.zoo.models import drop_path, model_names, options_of
from tests.conftest import ROOT

CONFIGS = ROOT / 'configs'
OTHERS = ('_base_', 'quickstart', 'controlled', 'tasks')
COMMON = sorted(path for path in CONFIGS.glob('*/*.py') if path.parent.name not in OTHERS)
REFERENCE = {
    'coco': 'mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py',
    'ade20k': 'mambaout/mambaout-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py',
}
# Native recipes of other heads and schedules are held against their task, with the backbone of the references.
OTHER_TASKS = {
    'cascade-mask-rcnn_.*lsj': 'tasks/cascade-mask-rcnn_lsj-100e_coco.py',
    'cascade-mask-rcnn_.*3x': 'tasks/cascade-mask-rcnn_3x_coco.py',
}
SINGLE_STRIDE = {'mamba', 'vim', 'localvim', 'plainmamba', 'deit'}  # their neck makes the pyramid
TASKS = {'coco': 'tasks/mask-rcnn_1x_coco.py', 'ade20k': 'tasks/upernet_160k_ade20k-512x512.py'}
CHANNELS = ('model.neck.in_channels', 'model.decode_head.in_channels', 'model.auxiliary_head.in_channels')
TASK_NAMES = {'coco': 'detection', 'ade20k': 'segmentation'}
UNIVERSAL = ('type', 'arch', 'init_cfg', 'drop_path_rate')


def flatten(node: object, prefix: str = '') -> dict[str, object]:
    if isinstance(node, dict) and node:
        return {name: value for key in node for name, value in flatten(node[key], f'{prefix}{key}.').items()}
    return {prefix[:-1]: node}


def task_of(path: Path) -> str:
    return 'coco' if path.stem.endswith('coco') else 'ade20k'


def name_of(path: Path) -> str:
    """The zoo's name of the network in a config's name."""
    return re.match('(?:(?:cascade-)?mask-rcnn_)?([^_]+)_', path.name)[1].replace('-', '_')


def reference_of(path: Path) -> Config:
    for form, task in OTHER_TASKS.items():
        if re.match(form, path.name):
            return load_config(CONFIGS / task, backbone='mambaout_tiny')
    return Config.fromfile(CONFIGS / REFERENCE[task_of(path)])


def offences(cfg: Config, path: Path) -> list[str]:
    """Keys in which ``cfg`` departs from the reference without leave."""
    task, name = task_of(path), name_of(path)
    reference = reference_of(path)
    ours, theirs = flatten(cfg._cfg_dict.to_dict()), flatten(reference._cfg_dict.to_dict())
    differing = [key for key in ours.keys() | theirs.keys() if ours.get(key, ...) != theirs.get(key, ...)]
    declared = options_of(name, TASK_NAMES[task])
    bad = []
    for key in differing:
        if key.startswith('model.backbone.'):
            option = key.split('.')[2]
            given = option in cfg.model.backbone and option not in UNIVERSAL
            if given and declared.get(option, ...) != cfg.model.backbone[option]:
                bad.append(key)
        elif key not in CHANNELS and not (name.split('_')[0] in SINGLE_STRIDE and key.startswith('model.neck')):
            bad.append(key)
    return sorted(bad)


@pytest.mark.parametrize('path', COMMON, ids=lambda path: path.stem)
def test_nothing_but_the_backbone_differs(path):
    assert offences(Config.fromfile(path), path) == []


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
    path = CONFIGS / REFERENCE['ade20k']
    cfg = Config.fromfile(path)
    cfg.merge_from_dict({key: value})
    assert [found for found in offences(cfg, path) if found.split('.')[0] == key.split('.')[0]]


def test_every_model_of_the_zoo_has_a_file_for_both_tasks():
    assert sorted(map(name_of, COMMON)) == sorted(2 * model_names())


@pytest.mark.parametrize('path', COMMON, ids=lambda path: path.stem)
def test_a_file_is_its_task_with_the_zoos_backbone(path):
    """Key for key: arch, options, drop path, weights, neck and channels."""
    swapped = load_config(CONFIGS / TASKS[task_of(path)], backbone=name_of(path))
    assert text(swapped) == text(load_config(path))
    assert drop_path(name_of(path), TASK_NAMES[task_of(path)])[1]


def text(cfg: Config) -> str:
    """What ``config_hash`` hashes, but for the layout, whose formatting takes a third of a second."""
    return repr(ordered({key: value for key, value in cfg._cfg_dict.to_dict().items() if key not in PLACE_KEYS}))


def ordered(node: object) -> object:
    if isinstance(node, dict):
        return {key: ordered(node[key]) for key in sorted(node, key=str)}
    return type(node)(map(ordered, node)) if isinstance(node, list | tuple) else node


@pytest.mark.parametrize('task', REFERENCE)
def test_equal_texts_have_equal_hashes(task):
    path = CONFIGS / REFERENCE[task]
    assert config_hash(load_config(CONFIGS / TASKS[task], backbone='mambaout_tiny')) == config_hash(load_config(path))


@pytest.mark.parametrize('path', COMMON, ids=lambda path: path.stem)
def test_weights_are_named_or_demanded(path):
    init_cfg = Config.fromfile(path).model.backbone.init_cfg
    assert init_cfg.type == 'mmbackbones.Pretrained'
    assert init_cfg.checkpoint is None or init_cfg.checkpoint.startswith('zoo://')


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
    changed = {key.split('.')[0] for key in offences(cfg, path)} - {
        'recipe',
        'model',
        'train_pipeline',
        'auto_scale_lr',
        'default_hooks',
    }
    head = path.read_text().split('_base_')[0]
    assert head.startswith('# The authors')
    assert [key for key in changed if key not in head] == []


@pytest.mark.parametrize('path', NATIVE, ids=lambda path: path.stem)
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
