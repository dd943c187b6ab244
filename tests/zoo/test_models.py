"""The zoo's tables: complete, without doubles, and each line of use. tests/configs holds the config files to them."""

import re
from fnmatch import fnmatchcase

import pytest
import torch

from mmbackbones.errors import InputError
from mmbackbones.registry import MODELS
from mmbackbones.zoo.models import TASKS, backbone_config, drop_path, miniature_names, model_names, options_of
from mmbackbones.zoo.published import TOKEN_MIXERS, token_mixer
from mmbackbones.zoo.rows import read_rows as lines
from tests.conftest import ROOT

MAY_BE_EMPTY = ('family', 'variant', 'token_mixer', 'weights', 'sha256', 'weights_license')


@pytest.mark.parametrize('row', lines('models.csv'), ids=lambda row: row['name'])
def test_every_model_is_complete(row):
    assert None not in row and None not in row.values()  # as many cells as the head of the table
    assert [key for key in row if not row[key] and key not in MAY_BE_EMPTY] == []
    assert row['weights'] == '' or row['weights'].startswith(('https://', 'hf://'))
    assert row['sha256'] == '' or (row['weights'] and re.fullmatch('[0-9a-f]{64}', row['sha256']))
    assert row['weights_license'] or not row['weights']
    assert row['weights_license'] != 'repository' or row['code_license'] != 'none stated'
    assert MODELS.get(row['class']) is not None
    for task in TASKS:
        assert 0 <= float(row[f'{task}_drop_path']) < 1


@pytest.mark.parametrize('row', lines('models.csv'), ids=lambda row: row['name'])
def test_the_token_mixer_is_said_once(row):
    """By the published rows of the model, or by the zoo where there are none."""
    assert bool(row['family']) == bool(row['variant'])
    published = token_mixer(row['family'], row['variant'])
    assert bool(published) != bool(row['token_mixer'])
    assert bool(published) == bool(row['family'])
    assert set((published or row['token_mixer']).split('+')) <= set(TOKEN_MIXERS)


def test_addresses_of_weights_stand_in_the_zoo_alone():
    addresses = [row['weights'] for row in lines('models.csv') if row['weights']]
    assert len(addresses) == len(set(addresses))
    files = [path for suffix in ('py', 'md', 'csv', 'yaml') for path in ROOT.glob(f'configs/**/*.{suffix}')]
    files += [*ROOT.glob('docs/**/*.md'), *ROOT.glob('mmbackbones/zoo/published/*.csv'), ROOT / 'README.md']
    assert len(files) > 150
    texts = {path: path.read_text() for path in files}
    assert [(path, address) for path in texts for address in addresses if address in texts[path]] == []


def test_every_option_has_a_reason():
    assert all(all(row.values()) for row in lines('options.csv'))


def test_names_are_unique():
    names = [row['name'] for file in ('models.csv', 'miniatures.csv') for row in lines(file)]
    assert len(names) == len(set(names)) and names == [*model_names(), *miniature_names()]
    assert all(name == name.lower() and '-' not in name for name in names)


def test_every_option_is_some_models_and_none_is_said_twice():
    for row in lines('options.csv'):
        assert row['task'] in (*TASKS, '*')
        assert [name for name in model_names() if fnmatchcase(name, row['models'])], row['models']
    for name in model_names():
        for task in TASKS:
            said = [
                row for row in lines('options.csv') if fnmatchcase(name, row['models']) and row['task'] in (task, '*')
            ]
            assert len(said) == len(options_of(name, task))


def test_a_model():
    assert backbone_config('vim_tiny', 'detection') == dict(
        type='mmbackbones.Vim',
        arch='tiny',
        out_indices=(23,),
        drop_path_rate=0.1,
        init_cfg=dict(type='mmbackbones.Pretrained', checkpoint='zoo://vim_tiny'),
    )
    assert backbone_config('mambavision_large', 'segmentation')['init_cfg']['checkpoint'] is None
    assert drop_path('mambaout_base', 'detection') == (0.6, 'the author, issue 251')


def test_a_miniature():
    small = backbone_config('deit_mini', 'segmentation')
    assert small['arch']['img_size'] == 128 and small['out_indices'] == (0, 1, 2, 3) and small['init_cfg'] is None
    assert 'drop_path_rate' not in small
    small['arch']['img_size'] = 1
    assert backbone_config('deit_mini', 'detection')['arch']['img_size'] == 160


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('name', miniature_names())
def test_every_miniature_is_small(name, task):
    with torch.device('meta'):
        model = MODELS.build(backbone_config(name, task))
    assert sum(parameter.numel() for parameter in model.parameters()) < 1e6


def test_an_unknown_name():
    with pytest.raises(InputError, match='convnext_tinny: no such backbone; nearest: convnext_tiny'):
        backbone_config('convnext_tinny', 'detection')
