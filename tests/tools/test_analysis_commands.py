"""tools/analysis/complexity.py and tools/analysis/tokens.py as a user calls them."""

import csv
import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.miniatures import written

pytestmark = pytest.mark.slow
DET = 'configs/mambaout/mask-rcnn_mambaout-tiny_fpn_8xb2-amp-1x_coco.py'


def run(tool: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, f'tools/analysis/{tool}.py', *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=600,
    )


def error_of(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    return line


def test_complexity_of_two_configs():
    done = run('complexity', DET, written('vmamba_mini', 'segmentation'), '--depth', 2)
    assert done.returncode == 0, done.stderr
    assert '262.5' in done.stdout and 'roi_head.mask_head' in done.stdout
    assert 'published as MambaOut Tiny: 43 M, 262 G (MambaOut paper' in done.stdout
    assert ' by 9N+1, ' in done.stdout and 'no published row: ' in done.stdout


def test_complexity_of_a_folder(tmp_path):
    done = run('complexity', '--all', 'configs/mambaout', '--csv', tmp_path / 'a.csv', '--markdown', tmp_path / 'a.md')
    assert done.returncode == 0, done.stderr
    with (tmp_path / 'a.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10 and all(row['torch'] and row['date'] for row in rows)
    assert (tmp_path / 'a.md').read_text().count('| `') == 10


def test_complexity_keeps_the_rows_counted_beside_a_refused_config(tmp_path):
    """A whole table from an earlier run stays as it is."""
    table = tmp_path / 'a.csv'
    table.write_text('whole\n')
    bad = tmp_path / 'imagenet.py'
    bad.write_text(f"_base_ = ['{ROOT}/configs/tasks/imagenet-224.py']\n")
    unknown = tmp_path / 'unknown.py'
    unknown.write_text(f"_base_ = ['{ROOT}/{DET}']\nmodel = dict(neck=dict(type='NoNeck'))\n")
    refusal = error_of(run('complexity', written('mambaout_mini', 'segmentation'), bad, unknown, '--csv', table))
    assert f'2 not counted, the other 1 are in {table}.incomplete: imagenet' in refusal and '; unknown: Key' in refusal
    assert table.read_text() == 'whole\n'
    with open(f'{table}.incomplete') as file:
        assert len(list(csv.DictReader(file))) == 1


def test_complexity_bad_usage():
    assert error_of(run('complexity')) == 'error: expected configs or --all'
    refusal = error_of(run('complexity', '--all', '--shape', 64, 64))
    assert '--shape, --backbone and --cfg-options: expected configs, without' in refusal


def test_tokens(realdata, tmp_path):
    option = f'test_dataloader.dataset.data_root={realdata}/coco_mini/'
    done = run('tokens', DET, '--out', tmp_path, '--cfg-options', option)
    assert done.returncode == 0, done.stderr
    assert 'mambaout-tiny' in done.stdout and '196' in done.stdout and '4000' in done.stdout
    assert (tmp_path / 'tokens_detection.png').stat().st_size > 5000
    assert '<svg' in (tmp_path / 'tokens_detection.svg').read_text()
    (record,) = map(json.loads, (tmp_path / 'records.jsonl').read_text().splitlines())
    assert record['kind'] == 'tokens' and record['metrics']['stage3.channels'] == 384
    assert 'no readable annotation file' in error_of(
        run('tokens', DET, '--cfg-options', 'test_dataloader.dataset.data_root=nowhere/')
    )
