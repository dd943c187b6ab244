"""compare, resolution_sweep and collect on what real trainings of minutes leave behind."""

import csv
import json
import os
import runpy
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mmbackbones.analysis.compare.collect import collect
from mmbackbones.analysis.tokens.resolution_sweep import resized, run_size, sweep
from mmbackbones.datasets.shapes import write_shapes
from mmbackbones.errors import InputError
from mmbackbones.evaluation.records import RECORDS, read_records
from tests.conftest import ROOT
from tests.miniatures import DETECTOR, SEGMENTOR, written

SEGMENTORS = [SEGMENTOR, str(written('vim_mini', 'segmentation'))]


def command(tool, *arguments):
    """Run a thin command of tools/analysis in this process."""
    runpy.run_path(str(ROOT / 'tools' / 'analysis' / f'{tool}.py'))['main']([str(argument) for argument in arguments])


def execute(*arguments):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp('data') / 'shapes', train=12, val=7)


@pytest.fixture(scope='module')
def options(shapes):
    coco, ade = (f'{shapes}/{name}/' for name in ('coco', 'ade20k'))
    roots = {DETECTOR: coco, **dict.fromkeys(SEGMENTORS, ade)}
    found = {
        config: [f'{split}_dataloader.dataset.data_root={root}' for split in ('train', 'test')]
        for config, root in roots.items()
    }
    found[DETECTOR].append(f'test_evaluator.ann_file={coco}annotations/instances_val2017.json')
    return found


@pytest.fixture(scope='module')
def work_dirs(tmp_path_factory, options):
    """Two segmentors under three seeds and a detector, each trained over a few iterations; by name."""
    folder = tmp_path_factory.mktemp('work_dirs')
    jobs = [(config, seed) for config in SEGMENTORS for seed in range(3)] + [(DETECTOR, 0)]

    def train(job):
        config, seed = job
        execute(
            'tools/train.py',
            config,
            '--work-dir',
            folder / f'{Path(config).stem}-{seed}',
            '--cfg-options',
            *options[config],
            f'randomness.seed={seed}',
            'train_cfg.max_iters=3',
        )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train, jobs))
    config = SEGMENTORS[0]
    first = folder / f'{Path(config).stem}-0'
    execute(
        'tools/test.py',
        config,
        first / 'iter_3.pth',
        '--work-dir',
        first,
        '--tta',
        '--cfg-options',
        *options[config],
        'train_cfg.max_iters=3',
    )
    return folder


def of(work_dirs, config, seed=0):
    return work_dirs / f'{Path(config).stem}-{seed}'


@pytest.mark.slow
class TestOnTrainings:
    def test_every_run_leaves_a_record(self, work_dirs):
        trained, tested = read_records(of(work_dirs, SEGMENTORS[0]) / RECORDS)
        assert (trained['kind'], tested['kind'], tested['tta']) == ('train', 'test', True)
        (vim,) = read_records(of(work_dirs, SEGMENTORS[1], 2) / RECORDS)
        assert vim['scan_backend'] and trained['scan_backend'] is None and vim['seed'] == 2
        assert vim['params'] > 1e5 and vim['train_seconds'] > 0 and not vim['resumed']
        final = json.loads((of(work_dirs, SEGMENTORS[1], 2) / 'final' / 'run.json').read_text())
        assert len(final.pop('image_ids')) == vim['images'] == 7 and final == vim

    def test_compare(self, work_dirs, tmp_path, capsys):
        runs = [of(work_dirs, config, seed) for config in SEGMENTORS for seed in range(3)]
        command('compare', runs[0], runs[3], '--json', tmp_path / 'two.json', '--record', tmp_path / RECORDS)
        assert 'not the methods' in capsys.readouterr().out
        two = json.loads((tmp_path / 'two.json').read_text())
        recorded = [read_records(run / RECORDS)[0]['metrics']['mIoU'] for run in (runs[3], runs[0])]
        row = two['differences'][0]
        assert [row['score'], row['reference_score']] == pytest.approx(recorded, abs=6e-3)
        assert read_records(tmp_path / RECORDS) == [two]
        command('compare', *runs, '--resamples', 200, '--record', tmp_path / RECORDS)
        assert 'over seeds and images' in capsys.readouterr().out

    def test_compare_refuses_another_task(self, work_dirs, tmp_path):
        with pytest.raises(InputError, match='cannot be compared, they differ in task;'):
            command('compare', of(work_dirs, DETECTOR), of(work_dirs, SEGMENTORS[0]))

    def test_sweep_of_a_checkpoint(self, work_dirs, options, tmp_path, capsys):
        call = [
            'resolution_sweep',
            DETECTOR,
            of(work_dirs, DETECTOR) / 'iter_3.pth',
            '--sizes',
            160,
            96,
            '--out',
            tmp_path / 'sweep',
            '--cfg-options',
            *options[DETECTOR],
        ]
        command(*call)
        with (tmp_path / 'sweep' / 'resolution_sweep.csv').open() as file:
            rows = list(csv.DictReader(file))
        assert [(row['size'], row['metric']) for row in rows] == [
            (size, metric) for size in ('96', '160') for metric in ('box AP', 'mask AP')
        ]
        assert float(rows[0]['tokens']) < float(rows[2]['tokens'])
        assert all(float(row['low']) <= float(row['score']) <= float(row['high']) for row in rows)
        for size in (96, 160):
            metrics = json.loads((tmp_path / 'sweep' / str(size) / 'run.json').read_text())['metrics']
            scores = {row['metric']: float(row['score']) for row in rows if row['size'] == str(size)}
            assert scores['box AP'] == pytest.approx(100 * metrics['coco/bbox_mAP'], abs=0.06)
        for ending in ('png', 'svg'):
            assert (tmp_path / 'sweep' / f'resolution_sweep.{ending}').stat().st_size > 5000
        stamp = (tmp_path / 'sweep' / '96' / 'run.json').stat().st_mtime
        command(*call)  # done sizes are not run again
        assert (tmp_path / 'sweep' / '96' / 'run.json').stat().st_mtime == stamp
        assert [record['kind'] for record in read_records(tmp_path / 'sweep' / RECORDS)] == ['resolution_sweep'] * 2
        with pytest.raises(InputError, match='96: holds another run'):
            run_size(DETECTOR, str(tmp_path / 'other.pth'), 96, tmp_path / 'sweep', options[DETECTOR])

    def test_sweep_of_trainings_survives_a_failed_size(self, options, tmp_path):
        (tmp_path / '96' / 'final').mkdir(parents=True)
        (tmp_path / '96' / 'final' / 'run.json').write_text('{')
        points, faults = sweep(
            SEGMENTORS[0], None, [64, 96], tmp_path, [*options[SEGMENTORS[0]], 'train_cfg.max_iters=2'], resamples=100
        )
        assert [point.size for point in points] == [64] and points[0].tokens > 15
        (fault,) = faults
        assert '96/final/run.json: not a whole record' in fault
        settings = read_records(tmp_path / '64' / RECORDS)[0]['settings']
        assert settings['model']['data_preprocessor']['size'] == [64, 64]

    def test_collect(self, work_dirs, tmp_path, capsys):
        command('complexity', DETECTOR, '--record', of(work_dirs, DETECTOR) / RECORDS)
        command('collect', work_dirs, '--csv', tmp_path / 'r.csv', '--markdown', tmp_path / 'r.md')
        with (tmp_path / 'r.csv').open() as file:
            rows = {Path(row['work dir']).name: row for row in csv.DictReader(file)}
        assert len(rows) == 7 and {row['table'] for row in rows.values()} == {'1', '2'}
        first = rows[of(work_dirs, SEGMENTORS[0]).name]
        trained, tested = read_records(of(work_dirs, SEGMENTORS[0]) / RECORDS)
        assert first['mIoU'] == f'{trained["metrics"]["mIoU"]:.1f}'
        assert first['mIoU multi-scale'] == f'{tested["metrics"]["mIoU"]:.1f}'
        assert first['params (M)'] == f'{trained["params"] / 1e6:.1f}' and first['iterations'] == '3'
        assert 'a miniature for the quickstart' in first['remarks']
        assert rows[of(work_dirs, DETECTOR).name]['box AP']
        counted = read_records(of(work_dirs, DETECTOR) / RECORDS)[-1]['metrics']['macs']
        assert rows[of(work_dirs, DETECTOR).name]['MACs (G)'] == f'{counted / 1e9:.1f}'
        text = (tmp_path / 'r.md').read_text()
        assert text.count('| ---') > 2 and 'kept apart from table 1: they differ in task' in text
        assert 'table 2' in capsys.readouterr().out

    def test_collect_lists_what_is_no_result(self, work_dirs, tmp_path):
        good = of(work_dirs, SEGMENTORS[0])
        names = ('good', 'interrupted', 'gone', 'mixed', 'stale', 'truncated')
        dirs = {name: shutil.copytree(good, tmp_path / 'w' / name) for name in names}
        (dirs['interrupted'] / RECORDS).unlink()
        shutil.rmtree(dirs['interrupted'] / 'final')
        shutil.rmtree(dirs['gone'] / 'final')
        with (dirs['mixed'] / RECORDS).open('a') as file:
            file.write((of(work_dirs, SEGMENTORS[1], 1) / RECORDS).read_text())
        config = tmp_path / Path(SEGMENTORS[0]).name
        config.write_text(f"_base_ = '{ROOT / SEGMENTORS[0]}'\noptim_wrapper = dict(optimizer=dict(lr=1.))\n")
        lines = (good / RECORDS).read_text().replace(SEGMENTORS[0], str(config))
        (dirs['stale'] / RECORDS).write_text(lines)
        (dirs['truncated'] / RECORDS).write_text((good / RECORDS).read_text()[:-200])
        (tmp_path / 'w' / 'empty').mkdir()
        found = collect([tmp_path / 'w', tmp_path / 'w' / 'empty'])
        reasons = {path.name: why for path, why in found.left_out.items()}
        assert sorted(result.work_dir.name for result in found.tables[0]) == ['good', 'truncated']
        for name, why in {
            'interrupted': 'incomplete: the training did not end, its newest checkpoint is iter_3.pth',
            'gone': 'incomplete: recorded, but final/run.json is gone',
            'mixed': 'mixed: the records of one work dir differ in model.backbone, seed',
            'stale': f'stale: {config.name} has changed since the run, in optim_wrapper.optimizer.lr',
            'empty': 'incomplete: no result among its records (there are none)',
        }.items():
            assert reasons.pop(name) == why
        assert not reasons
        truncated = next(result for result in found.tables[0] if result.work_dir.name == 'truncated')
        assert truncated.multi_scale is None
        assert any('half-written line' in note for note in found.notes)
        with pytest.raises(InputError, match='nowhere: no such work dir'):
            collect([tmp_path / 'nowhere'])


def test_pipelines_take_a_size():
    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(1333, 800), keep_ratio=True),
        dict(type='RandomCrop', crop_size=(512, 512)),
    ]
    small = resized(steps, 400, 'p')
    assert small[1]['scale'] == (666, 400) and small[2]['crop_size'] == (400, 400) and steps[1]['scale'] == (1333, 800)
    added = resized([dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')], 96, 'p')
    assert added[1] == dict(type='Resize', keep_ratio=True, scale=(384, 96))
    with pytest.raises(InputError, match=r'p: cannot be set to 96 px; .*, not TestTimeAug'):
        resized([dict(type='TestTimeAug')], 96, 'p')


@pytest.mark.parametrize(
    ('sizes', 'config', 'message'),
    [
        ([16, 64], DETECTOR, '--sizes 16 64: expected short sides of 32 px'),
        ([64], 'nowhere.py', 'nowhere.py: no such config file'),
    ],
)
def test_sweep_with_bad_arguments(sizes, config, message, tmp_path):
    with pytest.raises(InputError, match=message):
        sweep(config, None, sizes, tmp_path)
    assert not np.any(list(tmp_path.iterdir()))
