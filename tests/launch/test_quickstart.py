"""The quickstart's judgement: what passes, what fails, and that an untrained network fails."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from mmbackbones.errors import InputError
from mmbackbones.launch.quickstart import TRAININGS, _Job, _run_two_at_a_time, gate
from tests.conftest import ROOT

NOTEBOOK = ROOT / 'demo' / 'demo.ipynb'
GOOD = {
    'box AP': {'all': 0.8, 'circle': 0.9},
    'mask AP': {'all': 0.8, 'circle': 0.9},
    'mIoU': {'all': 0.9, 'background': 0.99, 'circle': 0.8},
    'mIoU, VMamba': {'all': 0.9, 'background': 0.99, 'circle': 0.8},
    'mIoU multi-scale': {'all': 0.9, 'background': 0.99, 'circle': 0.8},
}


def test_good_scores_pass():
    assert gate(GOOD) == []


@pytest.mark.parametrize(
    ('score', 'what', 'value', 'fault'),
    [
        ('box AP', 'all', 0.69, 'box AP 0.690 is below 0.70'),
        ('mask AP', 'all', float('nan'), 'mask AP nan is below 0.70'),
        ('mIoU', 'all', 0.74, 'mIoU 0.740 is below 0.75'),
        ('mIoU', 'circle', 0.0, 'IoU of class circle 0.000 is below 0.40'),
        ('mIoU, VMamba', 'all', 0.74, 'mIoU, VMamba 0.740 is below 0.75'),
        ('mIoU, VMamba', 'circle', 0.39, "VMamba's IoU of class circle 0.390 is below 0.40"),
    ],
)
def test_each_floor_is_checked(score, what, value, fault):
    scores = copy.deepcopy(GOOD)
    scores[score][what] = value
    assert gate(scores) == [fault]


def job(tmp_path, name, code='', then=None):
    return _Job(name, [sys.executable, '-S', '-c', code], tmp_path / f'{name}.log', then)


def test_a_test_follows_its_training_and_a_failure_starts_nothing_more(tmp_path):
    started = tmp_path / 'test.log'
    _run_two_at_a_time([job(tmp_path, str(i), then=lambda: job(tmp_path, 'test')) for i in range(3)])
    assert started.is_file() and all((tmp_path / f'{i}.log').is_file() for i in range(3))
    started.unlink()
    failing = job(tmp_path, 'failing', 'raise SystemExit(3)', then=lambda: job(tmp_path, 'test'))
    with pytest.raises(InputError, match='failing ended with status 3'):
        _run_two_at_a_time([failing, failing, job(tmp_path, 'never')])
    assert not started.exists() and not (tmp_path / 'never.log').exists()


def test_the_two_segmentors_differ_in_their_backbone_alone():
    first, second = (each for each in TRAININGS if each.task == 'segmentation')
    assert first.settings == second.settings and second.options == ('--backbone', 'vmamba_mini') and not first.options


@pytest.fixture(scope='module')
def untrained(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """Folder and end of a quickstart that is cut off after one step of each training."""
    run = tmp_path_factory.mktemp('quickstart') / 'run'
    return run, quickstart(run)


def quickstart(run: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, '-m', 'mmbackbones.launch.quickstart', '--out', str(run), '--iterations', '1']
    return subprocess.run(command, cwd=ROOT, env={**os.environ, 'OMP_NUM_THREADS': '1'}, capture_output=True, text=True)


@pytest.mark.slow
def test_untrained_networks_fail(untrained):
    run, done = untrained
    assert done.returncode == 2
    assert 'error: the networks did not learn: box AP 0.' in done.stderr and 'mIoU 0.' in done.stderr
    assert (run / 'scores.json').is_file()  # the results stay
    page = (run / 'report' / 'index.html').read_text()
    assert 'mask AP' in page and 'vmamba_mini against MambaOut: mIoU ' in page
    again = quickstart(run)
    assert again.returncode == 2 and 'exists; nothing was overwritten' in again.stderr


@pytest.mark.slow
def test_the_notebook_runs_on_the_checkpoints_of_a_quickstart(untrained, monkeypatch):
    monkeypatch.setenv('MMBACKBONES_QUICKSTART', str(untrained[0]))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.pop('outputs', None)
        cell.update({'outputs': []} if cell.cell_type == 'code' else {})
    NotebookClient(notebook, timeout=600, resources=dict(metadata=dict(path=str(NOTEBOOK.parent)))).execute()
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', ())]
    assert sum('image/jpeg' in output.get('data', {}) for output in outputs) == 7
    text = ''.join(output.get('text', '') for output in outputs)
    assert text.count('largest difference from MambaOut: 0\n') == 6
    assert 'segmentor, VMamba, stage 0: sees 100.0% of the pixels' in text


def test_the_notebook_is_small_and_names_no_place_of_the_machine_it_ran_on():
    text = NOTEBOOK.read_text()
    nbformat.validate(nbformat.reads(text, as_version=4))
    assert len(text) < 300_000 and not re.search(r'/tmp/|/home/|/root/|"output_type": "error"', text)
    assert text.count('"image/jpeg"') == 7  # who reads it on a web page sees the pictures
