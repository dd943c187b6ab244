"""What cannot be written is named in one line, before the work."""

import importlib.util
import os

import pytest

from mmbackbones.datasets.shapes import main as make_shapes
from mmbackbones.engine import cli
from mmbackbones.errors import InputError
from mmbackbones.launch.quickstart import main as quickstart
from mmbackbones.launch.run_suite import main as run_suite
from mmbackbones.output_paths import require_file, require_folder
from tests.conftest import ROOT


@pytest.fixture
def blocked(tmp_path):
    (tmp_path / 'file').write_text('not a folder')
    return tmp_path / 'file' / 'below'


def test_folders(tmp_path, blocked):
    require_folder('--out', tmp_path / 'a' / 'b')
    require_folder('--out', tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file']  # nothing was made
    (tmp_path / 'link').symlink_to(tmp_path / 'nothing')
    for path, reason in {
        blocked: f'{blocked.parent} is a file',
        blocked / 'deeper': f'{blocked.parent} is a file',
        blocked.parent: f'{blocked.parent} is a file',
        tmp_path / 'link' / 'x': 'link is a link to nothing',
        tmp_path / ('n' * 300): 'name too long',
        '/proc/nothing': 'cannot be made',
    }.items():
        with pytest.raises(InputError, match=f'--out {path}: the folder cannot be ') as caught:
            require_folder('--out', path)
        assert reason.lower() in str(caught.value).lower() and '\n' not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_without_permission(tmp_path):
    (tmp_path / 'closed').mkdir(mode=0o500)
    for path in (tmp_path / 'closed', tmp_path / 'closed' / 'a' / 'b'):
        with pytest.raises(InputError, match=r'closed.*Permission denied'):
            require_folder('--work-dir', path)


def test_files(tmp_path, blocked):
    require_file('--csv', tmp_path / 'a' / 'b.csv')
    require_file('--csv', tmp_path / 'file')
    with pytest.raises(InputError, match='is a folder, expected a file'):
        require_file('--csv', tmp_path)
    with pytest.raises(InputError, match='file is a file'):
        require_file('--csv', blocked)


OPTIONS = {
    'check_dataset': ['--json'],
    'collect': ['--csv', '--markdown'],
    'compare': ['--json', '--record'],
    'complexity': ['--csv', '--markdown', '--record'],
    'end_to_end': ['--csv', '--work-dir'],
    'long_range': ['--out'],
    'report': ['--out'],
    'resolution_sweep': ['--out'],
    'speed': ['--csv', '--record'],
    'tokens': ['--out'],
    'train_miniatures': ['--csv', '--work-dir'],
}


@pytest.mark.parametrize('name, option', [(name, option) for name, options in OPTIONS.items() for option in options])
def test_options_of_the_analysis_commands(name, option, blocked):
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / 'analysis' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(InputError, match=f'{option} .*{blocked.parent} is a file'):
        module.main([option, str(blocked)])


@pytest.mark.parametrize(
    'command, options',
    [
        (cli.train, ['configs/quickstart/mask-rcnn_1xb4-300_shapes-coco.py', '--work-dir']),
        (cli.test, ['config.py', 'checkpoint.pth', '--out']),
        (cli.test, ['config.py', 'checkpoint.pth', '--show-dir']),
        (cli.test, ['configs/quickstart/mask-rcnn_1xb4-300_shapes-coco.py', 'checkpoint.pth', '--work-dir']),
        (quickstart, ['--out']),
        (run_suite, ['suite.yaml', '--work-dir']),
        (make_shapes, []),
    ],
)
def test_options_of_the_other_commands(command, options, blocked):
    with pytest.raises(InputError, match=f'{blocked.parent} is a file'):
        command([*options, str(blocked)])
