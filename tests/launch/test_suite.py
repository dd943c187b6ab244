"""Suites: reading the list, and real trainings that are skipped, resumed and survive a neighbour's failure."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from mmbackbones.datasets.shapes import write_shapes
from mmbackbones.errors import InputError
from mmbackbones.launch.suite import ROOT, load_suite, run_suite

SEGMENTOR = 'configs/quickstart/mambaout-mini_upernet_1xb8-500_shapes-ade20k-128x128.py'
DETECTOR = 'configs/quickstart/mask-rcnn_mambaout-mini_fpn_1xb4-300_shapes-coco.py'


def write(path: Path, **content) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize('file', sorted((ROOT / 'configs' / 'suites').glob('*.yaml')), ids=lambda path: path.stem)
def test_shipped_suites_name_configs_that_exist(file, tmp_path):
    suite = load_suite(file, tmp_path)
    assert len({run.config_hash for run in suite.runs}) == len(suite.runs)
    assert {run.state() for run in suite.runs} == {'new'}


def test_seeds_and_options_are_part_of_a_runs_identity(tmp_path):
    short, long = (
        load_suite(
            write(
                tmp_path / f'{steps}.yaml',
                configs=[SEGMENTOR],
                seeds=[0, 1],
                cfg_options=[f'train_cfg.max_iters={steps}'],
            ),
            tmp_path,
        ).runs
        for steps in (2, 3)
    )
    assert len({run.config_hash for run in short + long}) == 4
    assert [run.work_dir.name for run in short] == ['seed0', 'seed1']


def test_only_segmentors_are_tested_at_several_scales(tmp_path):
    path = write(tmp_path / 's.yaml', configs=[SEGMENTOR, DETECTOR], seeds=[0], multi_scale=True)
    assert [run.multi_scale for run in load_suite(path, tmp_path).runs] == [True, False]


@pytest.mark.parametrize(
    'content, fault',
    [
        (dict(seeds=[0]), 'configs: expected a list'),
        (dict(configs=[SEGMENTOR], seeds=[]), 'seeds: expected a list'),
        (dict(configs=[SEGMENTOR], seeds=['a']), "seeds: 'a': expected int"),
        (dict(configs=['configs/nothing.py'], seeds=[0]), 'configs/nothing.py: no such config file'),
        (dict(configs=[SEGMENTOR], seeds=[0], gpus=-1), 'gpus=-1'),
        (dict(configs=[SEGMENTOR], seeds=[0], seed=1), "unknown key 'seed'"),
        (dict(configs=[SEGMENTOR], seeds=[0, 0]), 'is listed twice'),
        (dict(configs=[SEGMENTOR], seeds=[0], cfg_options=['train_cgf.max_iters=1']), 'train_cgf'),
        (dict(configs=[SEGMENTOR], seeds=[0], multi_scale='yes'), 'multi_scale=yes'),
    ],
)
def test_faulty_suites_are_one_line(content, fault, tmp_path):
    with pytest.raises(InputError, match='(?s)' + fault.replace('.', r'\.')) as caught:
        load_suite(write(tmp_path / 's.yaml', **content), tmp_path)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('text', ['configs: [', '- a', b'\xff\xfe\x00'])
def test_what_is_no_suite_file(text, tmp_path):
    path = tmp_path / 's.yaml'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=r's\.yaml'):
        load_suite(path, tmp_path)


def test_slurm_needs_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    suite = load_suite(write(tmp_path / 's.yaml', configs=[SEGMENTOR], seeds=[0]), tmp_path)
    with pytest.raises(InputError, match='no srun'):
        next(run_suite(suite, tmp_path, cluster='slurm'))


def command(suite: Path, work_dir: Path) -> list[str]:
    return [sys.executable, 'tools/analysis/run_suite.py', str(suite), '--work-dir', str(work_dir)]


def environment() -> dict[str, str]:
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}


def call(suite: Path, work_dir: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(suite, work_dir), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600
    )


@pytest.mark.slow
def test_an_interrupted_suite_goes_on_and_one_failure_stops_nobody(tmp_path):
    root = f'{write_shapes(tmp_path / "shapes", train=12, val=3)}/ade20k/'
    options = [
        f'train_dataloader.dataset.data_root={root}',
        f'test_dataloader.dataset.data_root={root}',
        'train_cfg.max_iters=3',
        'default_hooks.checkpoint.interval=1',
    ]
    content = dict(configs=[DETECTOR, SEGMENTOR], seeds=[0], multi_scale=True)
    suite, work_dir = write(tmp_path / 's.yaml', cfg_options=options, **content), tmp_path / 'runs'
    segmentor = work_dir / Path(SEGMENTOR).stem / 'seed0'

    process = subprocess.Popen(
        command(suite, work_dir),
        cwd=ROOT,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not (segmentor / 'last_checkpoint').exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(120)
    assert not (segmentor / 'final-multi-scale').exists()

    done = call(suite, work_dir)
    assert done.returncode == 1
    # The detector has no annotations under that root. It comes first, and the segmentor is trained all the same.
    assert '1 of 2 runs failed: mask-rcnn_mambaout-mini_fpn_1xb4-300_shapes-coco seed 0' in done.stderr
    log = Path(done.stdout.split('failed; log: ')[1].split()[0])
    assert 'error: ' in log.read_text()
    single, multi = (
        json.loads((segmentor / folder / 'run.json').read_text()) for folder in ('final', 'final-multi-scale')
    )
    assert (single['tta'], multi['tta'], single['iterations']) == (False, True, 3)
    assert single['config_hash'] == load_suite(suite, work_dir).runs[1].config_hash

    before = (segmentor / 'final' / 'run.json').stat().st_mtime_ns
    only = write(tmp_path / 'only.yaml', cfg_options=options, **{**content, 'configs': [SEGMENTOR]})
    again = call(only, work_dir)
    assert again.returncode == 0 and 'skipped' in again.stdout
    assert (segmentor / 'final' / 'run.json').stat().st_mtime_ns == before

    other = write(
        tmp_path / 'o.yaml', cfg_options=[*options, 'train_cfg.max_iters=4'], **{**content, 'configs': [SEGMENTOR]}
    )
    refused = call(other, work_dir)
    assert refused.returncode == 2 and 'finished under another configuration' in refused.stderr
    assert json.loads((segmentor / 'final' / 'run.json').read_text()) == single
