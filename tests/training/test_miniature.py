"""Real training runs on the generated shapes: every backbone learns both tasks, and none knows them beforehand."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from mmbackbones.datasets.shapes import write_shapes
from mmbackbones.errors import InputError
from mmbackbones.launch.choices import RUNS
from mmbackbones.launch.miniature import (
    FLOORS,
    SCORES,
    UNTRAINED,
    read_csv,
    run,
    score,
    train_miniature,
    write_rows,
)
from tests.conftest import ROOT

IN_CI = ('upernet_1xb8-500_shapes-ade20k-128x128_vim_mini', 'mask-rcnn_1xb4-300_shapes-coco_vmamba_mini')
TABLE = ROOT / 'benchmarks' / 'miniature_training.csv'


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp('data') / 'shapes')


@pytest.mark.parametrize(
    'name',
    [pytest.param(name, marks=pytest.mark.slow if name in IN_CI else pytest.mark.full) for name in RUNS],
)
def test_learns(name, shapes, tmp_path):
    row = train_miniature(name, tmp_path, shapes)
    assert float(row['untrained']) < UNTRAINED[row['task']]
    assert float(row[SCORES[row['task']]]) >= FLOORS[row['task']]
    assert int(row['iterations']) <= 600 and row['learned'] == 'yes'
    if 'MMBACKBONES_FIGURES' in os.environ:
        add_row(Path(os.environ['MMBACKBONES_FIGURES']) / TABLE.name, row)


def add_row(table, row):
    table.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f'{table}.lock'):  # workers share the table
        write_rows(table, list({**read_csv(table), row['config']: row}.values()))


def test_every_floor_lies_above_chance():
    assert all(FLOORS[task] - UNTRAINED[task] > 0.1 for task in SCORES)
    assert set(IN_CI) <= RUNS.keys()


def test_committed_figures():
    """The table holds what the command wrote: one row per config that was run, each of them a success."""
    rows = read_csv(TABLE)
    assert rows.keys() == RUNS.keys()
    for row in rows.values():
        score = float(row[SCORES[row['task']]])
        assert (score >= FLOORS[row['task']]) and float(row['untrained']) < UNTRAINED[row['task']], row['config']
        assert row['learned'] == 'yes' and int(row['iterations']) <= 600
        assert all(row[name] for name in ('date', 'device', 'torch', 'commit'))


def test_rows_of_other_configs_stay(tmp_path):
    rows = list(read_csv(TABLE).values())
    write_rows(tmp_path / 'table.csv', rows[::-1])
    assert list(read_csv(tmp_path / 'table.csv').values()) == rows
    (tmp_path / 'other.csv').write_text('a,b\n1,2\n')
    with pytest.raises(InputError, match=r'other\.csv: not a table of this command'):
        read_csv(tmp_path / 'other.csv')


def test_unknown_config(tmp_path):
    with pytest.raises(InputError, match=r'vim-maxi: no such miniature training; known: .*_vim_mini'):
        run('vim-maxi', tmp_path / 'work', tmp_path)


def test_scores_are_fractions():
    assert score(dict(task='segmentation', metrics={'mIoU': 50.0})) == 0.5
    assert score(dict(task='detection', metrics={'coco/bbox_mAP_50': 0.5, 'coco/bbox_mAP': 0.1})) == 0.5
