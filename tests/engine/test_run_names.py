"""Two arms, or two backbones, of one config share neither folder nor name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmbackbones.datasets.shapes import write_shapes
from mmbackbones.engine.config import config_hash, load_config, run_name
from tests.conftest import ROOT
from tests.miniatures import SEGMENTOR

CONTROLLED = 'configs/controlled/miniature/gated-mini_fcn-1x1_1xb8-500_shapes-ade20k-128x128.py'


def test_names():
    assert run_name('configs/a/b.py') == run_name('a/b') == 'b'
    assert run_name('b.py', 'vim_tiny') == 'b_vim_tiny'
    assert run_name('b.py', None, 'ss2d-last2') == 'b_ss2d-last2'


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'given', 'backbone', 'arm'),
    [(CONTROLLED, ['model.backbone.mixers=ss2d-last2'], None, 'ss2d-last2'), (SEGMENTOR, [], 'vim_mini', None)],
    ids=['arm', 'backbone'],
)
def test_a_run_away_from_the_checkout(config, given, backbone, arm, tmp_path):
    root = f'{write_shapes(tmp_path / "shapes", train=8, val=2)}/ade20k/'
    options = [f'{split}_dataloader.dataset.data_root={root}' for split in ('train', 'test')]
    options += ['train_cfg.max_iters=1', *given]
    name = f'{Path(config).stem}_{backbone or arm}'
    work_dir = tmp_path / 'work_dirs' / name

    def call(command, *arguments):
        chosen = ['--backbone', backbone] if backbone else []
        done = subprocess.run(
            [sys.executable, '-m', 'mmbackbones', command, config, *arguments, *chosen, '--cfg-options', *options],
            cwd=tmp_path,
            env={**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'PYTHONPATH': str(ROOT)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-2000:]

    call('train')
    call('test', str(work_dir / 'iter_1.pth'), '--tta')
    trained, tested = map(json.loads, (work_dir / 'records.jsonl').read_text().splitlines())
    assert trained['config'] == tested['config'] == f'{name}.py'
    assert trained['config_hash'] == tested['config_hash']
    assert (trained['config_file'], trained['backbone'], trained['arm']) == (config, backbone, arm)
    assert config_hash(load_config(config, trained['options'], backbone)) == trained['config_hash']
    if arm:
        assert trained['settings']['model']['backbone']['mixers'] == ['none', 'none', 'ss2d', 'ss2d']
