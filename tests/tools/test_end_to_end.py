"""tools/analysis/end_to_end.py as a user calls it, on the generated shapes in the place of real images."""

import csv
import os
import subprocess
import sys

import pytest

from mmbackbones.analysis.speed.end_to_end import BASIC, COLUMNS
from mmbackbones.datasets.shapes import write_shapes
from tests.conftest import ROOT
from tests.miniatures import DETECTOR, SEGMENTOR, written


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, 'tools/analysis/end_to_end.py', *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_both_tasks(tmp_path):
    shapes = write_shapes(tmp_path / 'shapes', train=12, val=2)
    done = run(
        written('vim_mini', 'detection'),
        SEGMENTOR,
        '--coco',
        shapes / 'coco',
        '--ade20k',
        shapes / 'ade20k',
        '--iterations',
        4,
        '--work-dir',
        tmp_path,
        '--csv',
        tmp_path / 'rows.csv',
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(' iterations, ') == 2 and 'scan cpu' in done.stdout
    with (tmp_path / 'rows.csv').open() as file:
        detector, segmentor = csv.DictReader(file)
    assert tuple(detector) == COLUMNS
    assert (detector['task'], segmentor['task']) == ('detection', 'segmentation')
    assert segmentor['iterations'] == '4' and int(detector['iterations']) >= 4
    for row in (detector, segmentor):
        assert float(row['iterations_per_s']) > 0 and float(row['last_loss']) > 0 and row['commit'] and row['date']
        assert row['precision'] == 'fp32' and not row['peak_mb']


def test_configs_exist():
    assert all((ROOT / 'configs' / name).is_file() for name in BASIC)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--iterations', '0'), '--iterations 0: expected 1 and more'),
        (('--coco', 'nowhere'), '--coco nowhere: no such folder'),
        ((DETECTOR,), 'no data for detection'),
    ],
)
def test_bad_usage(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert message in line
