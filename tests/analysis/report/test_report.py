"""The report from real outputs: a miniature training, its tests, and the records of the other commands."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmbackbones.analysis.compare.paired import compare_runs
from mmbackbones.analysis.evidence.page import Selection
from mmbackbones.analysis.evidence.show import sentences as published_sentences
from mmbackbones.analysis.report import gather as gathering
from mmbackbones.analysis.report.answer import answer
from mmbackbones.analysis.report.gather import comparable, gather, read_folders
from mmbackbones.analysis.report.write import render, write_report
from mmbackbones.datasets.shapes import write_shapes
from mmbackbones.errors import InputError
from tests.browser import faults_of
from tests.conftest import ROOT
from tests.miniatures import SEGMENTOR

ARMS = {'plain': [SEGMENTOR], 'scan': [SEGMENTOR, '--backbone', 'vmamba_mini']}


@pytest.fixture(scope='module')
def runs(tmp_path_factory) -> Path:
    """Two arms trained for a few steps on generated images, one of them also tested at several scales with pictures."""
    folder = tmp_path_factory.mktemp('runs')
    root = f'{write_shapes(folder / "shapes", train=12, val=5)}/ade20k/'
    options = [
        '--cfg-options',
        f'train_dataloader.dataset.data_root={root}',
        f'test_dataloader.dataset.data_root={root}',
        'train_cfg.max_iters=3',
    ]
    for arm, config in ARMS.items():
        _call('tools/train.py', *config, '--work-dir', folder / arm, *options)
    _call(
        'tools/test.py',
        SEGMENTOR,
        folder / 'plain' / 'iter_3.pth',
        '--work-dir',
        folder / 'plain',
        '--tta',
        '--out',
        folder / 'plain' / 'multi-scale',
        '--show-dir',
        folder / 'plain' / 'pictures',
        *options,
    )
    _call(
        'tools/analysis/resolution_sweep.py',
        SEGMENTOR,
        folder / 'plain' / 'iter_3.pth',
        '--sizes',
        64,
        96,
        '--resamples',
        100,
        '--out',
        folder / 'sweep',
        *options,
    )
    _call('tools/analysis/tokens.py', SEGMENTOR, '--out', folder / 'tokens', *options[:3])
    _call(
        'tools/analysis/speed.py',
        SEGMENTOR,
        '--sizes',
        64,
        96,
        '--rounds',
        1,
        '--record',
        folder / 'speed' / 'records.jsonl',
    )
    _call(
        'tools/analysis/long_range.py',
        '--tokens',
        16,
        '--mixers',
        'dw3',
        '--seeds',
        0,
        '--steps',
        2,
        '--images',
        8,
        '--out',
        folder / 'long_range',
    )
    return folder


def _call(*command: object) -> None:
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.slow
class TestReport:
    def test_it_says_what_the_records_say_and_stands_in_a_browser(self, runs, tmp_path):
        page = write_report([runs], tmp_path / 'report', resamples=100)
        text = page.read_text()
        record = json.loads((runs / 'scan' / 'final' / 'run.json').read_text())
        assert f'{record["metrics"]["mIoU"]:.4g}' in text
        assert record['commit'] in text and record['data_fingerprint'] in text
        assert 'This is about these checkpoints, not the methods' in re.sub(r'\s+', ' ', text)
        assert 'mIoU, multi-scale' in text and text.count('image/jpeg') == 3
        assert sorted(path.name for path in (page.parent / 'data').iterdir()) == [
            'cost.csv',
            'differences.csv',
            'long-range-0-row.csv',
            'published-differences.csv',
            'resolution-sweep.csv',
            'results.csv',
            'runs.csv',
            'tokens.csv',
        ]
        assert 'did not train' in text and 'No controlled run' in text
        for sentence in published_sentences(Selection().points()):
            assert sentence in text
        assert faults_of(page) == []

    def test_mambaout_is_the_reference(self, runs):
        groups = comparable(read_folders([runs / arm for arm in ARMS]).runs)
        assert [[run.work_dir.name for run in group] for group in groups] == [['plain', 'scan'], ['plain']]

    def test_every_run_is_scored_once_and_nothing_is_read_afterwards(self, runs, monkeypatch):
        scored = []

        def count(run, *arguments, **options):
            scored.append(run.folder)
            return original(run, *arguments, **options)

        original = gathering.score
        monkeypatch.setattr(gathering, 'score', count)
        data = gather([runs], resamples=100)
        assert len(scored) == len(set(scored)) == len(data.runs) == 3
        monkeypatch.setattr(Path, 'open', None)
        monkeypatch.setattr(Path, 'read_text', None)
        monkeypatch.setattr('builtins.open', None)
        titles = [section.title for section in render(data) if section.blocks]
        assert titles[:3] == ['Results', 'Differences', 'Predictions'] and titles[-1] == 'The runs'
        assert len(titles) == 9 and 'Published results' in titles
        assert 'Token mixers, all else equal' not in titles  # no controlled run, no heading
        assert answer(data).startswith('vmamba_mini against MambaOut: mIoU ')

    def test_comparisons_are_those_of_the_command(self, runs):
        (found,) = gather([runs], resamples=100).comparisons
        alone = compare_runs([runs / arm / 'final' for arm in ARMS], resamples=100, splits=())
        assert found.differences == alone.differences and found.sentences == alone.sentences

    def test_what_is_unfinished_or_damaged_is_named(self, runs, tmp_path):
        work = tmp_path / 'work'
        for name in ('whole', 'half', 'damaged'):
            shutil.copytree(runs / 'plain', work / name)
        shutil.rmtree(work / 'half' / 'final')
        (work / 'half' / 'records.jsonl').unlink()
        (work / 'damaged' / 'final' / 'run.json').write_text('{"kind": "tra')
        with (work / 'damaged' / 'records.jsonl').open('a') as file:
            file.write('{"kind": "tra')
        text = re.sub(r'\s+', ' ', write_report([work], tmp_path / 'report', resamples=100).read_text())
        assert f'{work / "half"}: incomplete: the training did not end' in text
        assert 'not a whole record' in text and 'half-written line' in text


def test_nothing_to_report_on(tmp_path):
    with pytest.raises(InputError, match='no records of finished runs'):
        write_report([tmp_path], tmp_path / 'report')
    with pytest.raises(InputError, match='no such folder'):
        write_report([tmp_path / 'absent'], tmp_path / 'report')
    assert not (tmp_path / 'report').exists()
