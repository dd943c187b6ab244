"""Config files and --cfg-options: what is wrong is named, before anything runs."""

import argparse

import pytest

from mmbackbones.engine.config import Overrides, config_hash, load_config
from mmbackbones.errors import InputError
from tests.conftest import ROOT

CONFIG = str(ROOT / 'configs/mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (None, 'no such config file'),
        ('model = dict(', 'not a readable config'),
        ("_base_ = 'absent.py'", 'not a readable config'),
        ('lr = 1', 'not a config of a detector or segmentor'),
    ],
)
def test_bad_file(tmp_path, text, message):
    path = tmp_path / 'broken.py'
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_config(str(path))
    assert str(path) in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('key', 'message'),
    [
        ('model.backbne.arch', r"no such key as model\.backbne; did you mean 'backbone'"),
        ('optim_wraper', r"no such key; did you mean 'optim_wrapper'"),
        ('model.train_cfg.rpn_proposal.nms_per', "did you mean 'nms_pre'"),
        ('train_cfg.max_epochs.x', 'train_cfg.max_epochs is no dict'),
        ('param_scheduler.7.end', "param_scheduler is a list of 2, '7' is no index"),
        ('param_scheduler.².end', "param_scheduler is a list of 2, '²' is no index"),
        ('randomness.determinstic', "did you mean 'deterministic'"),
    ],
)
def test_unknown_option(key, message):
    with pytest.raises(InputError, match=message) as caught:
        load_config(CONFIG, {key: 1})
    assert key in str(caught.value)


def test_option_without_value():
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=Overrides)
    assert parser.parse_args(['--cfg-options', 'a.b=1', 'c=None']).cfg_options == {'a.b': 1, 'c': None}
    with pytest.raises(InputError, match=r'--cfg-options a\.b: expected KEY=VALUE'):
        parser.parse_args(['--cfg-options', 'a.b'])


def test_known_and_new_constructor_options_pass():
    cfg = load_config(
        CONFIG,
        {
            'model.backbone.with_cp': True,
            'param_scheduler.1.milestones': [6, 9],
            'train_dataloader.prefetch_factor': 4,
            'find_unused_parameters': True,
            'data_check': False,
            'randomness.deterministic': True,
        },
    )
    assert cfg.randomness == dict(seed=0, deterministic=True)
    assert cfg.model.backbone.with_cp is True
    assert cfg.param_scheduler[1].milestones == [6, 9]
    assert cfg.train_dataloader.prefetch_factor == 4


def test_hash_names_what_is_computed_not_where():
    reference = config_hash(load_config(CONFIG))
    assert config_hash(load_config(CONFIG, {'work_dir': 'elsewhere', 'data_check': False})) == reference
    assert config_hash(load_config(CONFIG, {'optim_wrapper.optimizer.lr': 2e-4})) != reference
