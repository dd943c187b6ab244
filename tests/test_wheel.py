"""The wheel, installed elsewhere: what it holds, and that it trains, tests and runs a suite without a checkout."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from mmbackbones.datasets.shapes import write_shapes
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

MINIATURE = 'quickstart/upernet_1xb8-500_shapes-ade20k-128x128'
FULL_SIZE = 'vmamba/mask-rcnn_vmamba-tiny-s1l8_fpn_8xb2-amp-1x_coco'
LOOK = f"""
import torch
from mmbackbones.__main__ import main
from mmbackbones.engine.config import load_config
from mmbackbones.ops.selective_scan import selective_scan, selective_scan_backend
from mmbackbones.paths import find_config
main(['--help'])
x = torch.rand(1, 4, 9)
assert selective_scan(x, x, -torch.rand(4, 2), torch.rand(1, 2, 9), torch.rand(1, 2, 9)).isfinite().all()
print(find_config({FULL_SIZE!r}))
print(load_config({FULL_SIZE!r}).model.backbone.type)
print(selective_scan_backend('cpu').name)
"""


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """A wheel, built from a source distribution, that holds everything it needs."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    source.mkdir()
    for name in ('pyproject.toml', 'setup.py', 'MANIFEST.in', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, source)
    for name in ('mmbackbones', 'configs'):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('*.so', '__pycache__'))
    command = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', folder, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob('*.whl')
    return path


@pytest.fixture(scope='module')
def elsewhere(wheel, tmp_path_factory):
    """Run a command of the installed wheel in a folder with nothing of the project."""
    target, folder = tmp_path_factory.mktemp('target'), tmp_path_factory.mktemp('elsewhere')
    pip = [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-index', '--target', target, wheel]
    subprocess.run(pip, check=True)
    environment = {**os.environ, 'PYTHONPATH': str(target), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}

    def run(*arguments: object) -> str:
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run.folder, run.target = folder, target
    return run


def files_below(folder: Path) -> set[str]:
    return {
        path.relative_to(folder.parent).as_posix()
        for path in folder.rglob('*')
        if path.is_file() and '__pycache__' not in path.parts and path.suffix not in ('.so', '.cpp')
    }


def test_the_wheel_holds_package_and_configs(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = files_below(ROOT / 'mmbackbones') | {f'mmbackbones/{name}' for name in files_below(ROOT / 'configs')}
    found = {name for name in names if name.startswith('mmbackbones/') and not name.endswith(('.so', '.cpp'))}
    assert found == wanted
    if shutil.which(os.environ.get('CXX', 'c++')):
        assert any('_scan_baseline' in name for name in names)


def test_what_is_there_is_found(elsewhere):
    *usage, config, backbone, scan = elsewhere('-c', LOOK).splitlines()
    assert any(line.startswith('  suite ') for line in usage)
    assert config == f'{elsewhere.target}/mmbackbones/configs/{FULL_SIZE}.py'
    assert backbone == 'mmbackbones.VMamba'
    assert 'chunk' not in scan or not shutil.which(os.environ.get('CXX', 'c++'))  # what is left without a kernel


def test_a_suite_trains_and_its_checkpoint_is_tested(elsewhere):
    root = f'{write_shapes(elsewhere.folder / "shapes", train=8, val=2)}/ade20k/'
    options = [f'{split}_dataloader.dataset.data_root={root}' for split in ('train', 'test')]
    suite = dict(configs=[MINIATURE], seeds=[0], cfg_options=[*options, 'train_cfg.max_iters=1'])
    (elsewhere.folder / 'one.yaml').write_text(yaml.safe_dump(suite))
    printed = elsewhere('-m', 'mmbackbones', 'suite', 'one.yaml', '--work-dir', 'runs')
    assert '1 runs done in runs' in printed
    run = elsewhere.folder / 'runs' / Path(MINIATURE).name / 'seed0'
    record = json.loads((run / 'final' / 'run.json').read_text())
    assert record['iterations'] == 1 and record['commit'] is None
    checkpoint = run / Path((run / 'last_checkpoint').read_text().strip()).name
    arguments = ['--work-dir', 'tested', '--out', 'out', '--cfg-options', *options]
    printed = elsewhere('-m', 'mmbackbones', 'test', MINIATURE, checkpoint, *arguments)
    assert 'mIoU' in printed
    assert json.loads((elsewhere.folder / 'out' / 'run.json').read_text())['metrics'] == record['metrics']
