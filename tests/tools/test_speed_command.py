"""tools/analysis/speed.py and tools/analysis/train_miniatures.py as a user calls them."""

import csv
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.miniatures import DETECTOR, written

pytestmark = pytest.mark.slow


def run(*command: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_speed(tmp_path):
    config = written('vmamba_mini', 'segmentation')
    done = run(
        'tools/analysis/speed.py',
        config,
        '--sizes',
        64,
        '--rounds',
        1,
        '--csv',
        tmp_path / 'speed.csv',
        '--record',
        tmp_path / 'records.jsonl',
    )
    assert done.returncode == 0, done.stderr
    assert 'bytes/token' in done.stdout and 'torch ' in done.stdout
    assert len((tmp_path / 'records.jsonl').read_text().splitlines()) == 1
    with (tmp_path / 'speed.csv').open() as file:
        (row,) = csv.DictReader(file)
    assert row['size'] == '64' and row['tokens'] == '256' and float(row['median_ms']) > 0


def test_bad_usage(tmp_path):
    for command, message in (
        (('speed.py', DETECTOR, '--sizes', 8), '--sizes 8: expected sides of 64 px'),
        (('train_miniatures.py', 'vim-maxi', '--data', tmp_path / 'data'), 'vim-maxi: no such miniature training'),
    ):
        done = run(f'tools/analysis/{command[0]}', *command[1:])
        assert done.returncode == 2
        assert [line for line in done.stderr.splitlines() if line.startswith('error: ') and message in line]
