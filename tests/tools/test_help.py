"""Options are told at once: ``--help`` imports nothing that takes seconds."""

import subprocess
import sys

import pytest

from mmbackbones.__main__ import COMMANDS
from tests.conftest import ROOT

HEAVY = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'timm', 'matplotlib')
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix() for path in [*ROOT.glob('tools/*.py'), *ROOT.glob('tools/analysis/*.py')]
)


def told(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, '-X', 'importtime', *arguments, '--help'], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    imported = {line.rpartition('|')[2].strip() for line in done.stderr.splitlines() if line.startswith('import time')}
    assert [name for name in HEAVY if name in imported] == []
    return done.stdout


@pytest.mark.parametrize('script', SCRIPTS)
def test_of_every_script(script):
    assert told(script).startswith('usage: ')


@pytest.mark.parametrize('command', COMMANDS)
def test_of_every_command(command):
    assert told('-m', 'mmbackbones', command).startswith('usage: ')
