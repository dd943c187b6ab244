"""Options are told at once: ``--help`` imports nothing that takes seconds."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

# These compute their choices from modules that need torch.
SLOW = {'benchmark_mixers.py', 'benchmark_scan.py', 'controlled.py', 'long_range.py', 'speed.py', 'train_miniatures.py'}
HEAVY = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'timm', 'matplotlib')
QUICK = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob('tools/*.py'), *ROOT.glob('tools/analysis/*.py')]
    if path.name not in SLOW
)
COMMANDS = ['train', 'test', 'demo', 'suite', 'quickstart', 'make-shapes', 'trust-checkpoint']


def told(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, '-X', 'importtime', *arguments, '--help'], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    imported = {line.rpartition('|')[2].strip() for line in done.stderr.splitlines() if line.startswith('import time')}
    assert [name for name in HEAVY if name in imported] == []
    return done.stdout


@pytest.mark.parametrize('script', QUICK)
def test_of_every_script(script):
    assert told(script).startswith('usage: ')


@pytest.mark.parametrize('command', COMMANDS)
def test_of_every_command(command):
    assert told('-m', 'mmbackbones', command).startswith('usage: ')


def test_exceptions_exist():
    assert all((ROOT / 'tools' / 'analysis' / name).is_file() for name in SLOW)
