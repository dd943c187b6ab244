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
from tests.docs.pages import lines_of

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


# As a user types it who has the wheel alone. Weights need a network, so there are none.
USE = """
import torch
import mmbackbones
from mmbackbones.ops import directional_scan, selective_scan
from mmbackbones.ops.selective_scan import selective_scan_backend
names = mmbackbones.list_backbones('vmamba*', license='MIT')
assert 'vmamba_tiny_s1l8' in names
info = mmbackbones.backbone_info('vmamba_tiny_s1l8')
backbone = mmbackbones.create_backbone('vmamba_tiny_s1l8', out_indices=(0, 1, 2, 3)).eval()
maps = backbone(torch.rand(1, 3, 64, 96))
assert [tuple(x.shape) for x in maps] == [
    (1, channels, 64 // stride, 96 // stride) for channels, stride in zip(info.out_channels, info.out_strides)
]
import mmcv.ops, mmdet.models, mmseg.models, timm
print(mmbackbones.__file__)
print(selective_scan_backend('cpu').name)
"""


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """Folder with a source distribution, and a wheel built from it that holds everything it needs."""
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
    return folder


@pytest.fixture(scope='module')
def wheel(built):
    (path,) = built.glob('*.whl')
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


def test_an_index_would_accept_them(built):
    files = [path for path in built.iterdir() if path.is_file()]
    assert {path.suffix for path in files} == {'.gz', '.whl'}
    done = subprocess.run([sys.executable, '-m', 'twine', 'check', '--strict', *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


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


@pytest.mark.full
def test_an_empty_environment_needs_the_documented_commands_alone(wheel, tmp_path):
    """Those of docs/install.md, in the tested versions. It takes packages from pip's index and cache."""
    page = (ROOT / 'docs' / 'install.md').read_text()
    section = page[page.index('## As a wheel, without a checkout') :]
    lines = lines_of(section.split('```bash\n')[1].split('```')[0])
    (tmp_path / wheel.name).symlink_to(wheel)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(('PYTHON', 'VIRTUAL'))}
    del environment['XDG_CACHE_HOME']  # of the tests; pip's own cache has mmcv with its operators, which takes minutes
    environment |= dict(PIP_CONSTRAINT=str(ROOT / 'requirements.txt'), PIP_QUIET='1', PIP_PROGRESS_BAR='off')
    environment['PATH'] = f'{Path(sys.executable).parent}:{environment["PATH"]}'
    activate = lines.index('source venv/bin/activate')
    check = lines.index('python -c "import mmcv.ops"')

    def run(*lines: str) -> str:
        script = '\n'.join(('set -e', *lines))
        done = subprocess.run(
            ['bash', '-c', script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    active = lines[activate]
    run(*lines[:check])
    if 'libGL' in run(active, 'python -c "import cv2" 2>&1 || true'):  # as the page says
        run(active, 'pip install --force-reinstall --no-deps opencv-python-headless')
    run(active, *lines[check:])
    (tmp_path / 'use.py').write_text(USE)
    file, scan = run(active, 'python use.py').splitlines()[-2:]
    assert file.startswith(str(tmp_path)) and scan == 'cpu'
