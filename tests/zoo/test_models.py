"""The zoo's tables: complete, without doubles, and each line of use. tests/configs holds the config files to them."""

import csv
from fnmatch import fnmatchcase

import pytest
import torch

from mmbackbones.errors import InputError
from mmbackbones.registry import MODELS
from mmbackbones.zoo import models
from mmbackbones.zoo.models import TASKS, backbone_config, drop_path, miniature_names, model_names, options_of


def lines(name: str) -> list[dict[str, str]]:
    with (models.FOLDER / name).open(newline='') as file:
        return list(csv.DictReader(file))


def test_every_line_is_complete():
    for row in lines('models.csv'):
        assert row['weights'] == '' or row['weights'].startswith(('https://', 'hf://')), row
        assert all(row[key] for key in row if key != 'weights'), row
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
        init_cfg=dict(
            type='mmbackbones.Pretrained', checkpoint='hf://hustvl/Vim-tiny-midclstok/vim_t_midclstok_76p1acc.pth'
        ),
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
