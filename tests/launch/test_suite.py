"""Suites: reading the list, and real trainings that are skipped, resumed and survive a neighbour's failure."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from mmbackbones.analysis.compare.collect import collect
from mmbackbones.datasets.shapes import write_shapes
from mmbackbones.engine.config import config_hash, load_config
from mmbackbones.engine.process import command
from mmbackbones.engine.work_dir import running_training
from mmbackbones.errors import InputError
from mmbackbones.launch.suite import load_suite, run_suite
from tests.conftest import ROOT
from tests.miniatures import DETECTOR, SEGMENTOR

CONTROLLED = 'configs/controlled/miniature/gated-mini_upernet_1xb8-500_shapes-ade20k-128x128.py'


def write(path: Path, **content) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize('file', sorted((ROOT / 'configs' / 'suites').glob('*.yaml')), ids=lambda path: path.stem)
def test_shipped_suites_name_configs_that_exist(file, tmp_path):
    suite = load_suite(file, tmp_path)
    assert len({run.work_dir for run in suite.runs}) == len(suite.runs)
    assert {run.state() for run in suite.runs} == {'new'}


def test_tasks_times_backbones_times_arms_times_seeds(tmp_path):
    path = write(
        tmp_path / 's.yaml',
        tasks=[DETECTOR, SEGMENTOR],
        backbones=['vim_mini', 'vmamba_mini'],
        groups=[dict(configs=[CONTROLLED], arms=['none', 'ss2d-last2'])],
        seeds=[0, 1],
    )
    runs = load_suite(path, tmp_path).runs
    names = [run.work_dir.relative_to(tmp_path).as_posix() for run in runs]
    assert names[:3] == [
        'mask-rcnn_1xb4-300_shapes-coco_vim_mini/seed0',
        'mask-rcnn_1xb4-300_shapes-coco_vim_mini/seed1',
        'mask-rcnn_1xb4-300_shapes-coco_vmamba_mini/seed0',
    ]
    assert len(names) == 12 and names[-1] == f'{Path(CONTROLLED).stem}_ss2d-last2/seed1'
    assert runs[-1].options == ['model.backbone.mixers=ss2d-last2', 'randomness.seed=1']
    assert len({run.config_hash for run in runs}) == 12
    cfg = load_config(SEGMENTOR, {'randomness.seed': 1}, 'vmamba_mini')
    assert runs[7].config_hash == config_hash(cfg)


def test_commands(monkeypatch):
    monkeypatch.setenv('NNODES', '2')
    alone = [sys.executable, '-m', 'mmbackbones', 'test', 'a.py', 'b.pth']
    assert command('test', 'a.py', 'b.pth') == command('test', 'a.py', 'b.pth', processes=0) == alone
    several = command('train', 'a.py', processes=4, port=1234)
    assert several[:3] == [sys.executable, '-m', 'torch.distributed.run']
    assert {'--nproc_per_node=4', '--master_port=1234', '--nnodes=2', '--node_rank=0'} <= set(several)
    assert several[-6:] == ['-m', 'mmbackbones', 'train', 'a.py', '--launcher', 'pytorch']


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
        (dict(tasks=[SEGMENTOR], seeds=[0]), 'backbones: expected a list'),
        (dict(backbones=['vim_mini'], seeds=[0]), 'tasks: expected a list'),
        (dict(tasks=[SEGMENTOR], backbones=['vim_minni'], seeds=[0]), 'vim_minni: no such backbone; nearest: vim_mini'),
        (dict(configs=[CONTROLLED], arms=['ss2d'], seeds=[0]), 'arms: ss2d is no arm of .*; known: none, ssm-last2'),
        (dict(configs=[SEGMENTOR], arms=['none'], seeds=[0]), 'arms: none is no arm of .*; MambaOut has none'),
        (dict(arms=['none'], seeds=[0]), 'arms: expected configs, or tasks and backbones'),
        (dict(groups=[dict(config=[SEGMENTOR])], seeds=[0]), "group 1: unknown key 'config'"),
        (dict(configs=[SEGMENTOR], seeds=[0], gpus=-1), 'gpus=-1'),
        (dict(configs=[SEGMENTOR], seeds=[0], seed=1), "unknown key 'seed'"),
        (dict(configs=[SEGMENTOR], seeds=[0, 0]), 'is listed twice'),
        (dict(configs=[SEGMENTOR], seeds=[0], cfg_options=['train_cgf.max_iters=1']), 'train_cgf'),
        (dict(configs=[SEGMENTOR], seeds=[0], multi_scale='yes'), 'multi_scale=yes'),
    ],
)
def test_faulty_suites_are_one_line(content, fault, tmp_path):
    with pytest.raises(InputError, match=re.sub(r'\.(?!\*)', r'\.', fault)) as caught:
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


def suite_command(suite: Path, work_dir: Path) -> list[str]:
    return [sys.executable, str(ROOT / 'tools/analysis/run_suite.py'), str(suite), '--work-dir', str(work_dir)]


def environment() -> dict[str, str]:
    return {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'PYTHONPATH': str(ROOT)}


def call(suite: Path, work_dir: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        suite_command(suite, work_dir),
        cwd=work_dir.parent,  # no checkout
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
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
    segmentors = dict(tasks=[SEGMENTOR], backbones=['convnext_mini'])
    content = dict(configs=[DETECTOR], seeds=[0], multi_scale=True)
    suite = write(tmp_path / 's.yaml', cfg_options=options, groups=[segmentors], **content)
    work_dir = tmp_path / 'runs'
    segmentor = work_dir / f'{Path(SEGMENTOR).stem}_convnext_mini' / 'seed0'

    process = subprocess.Popen(
        suite_command(suite, work_dir),
        cwd=tmp_path,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not (segmentor / 'last_checkpoint').exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # to the suite alone, which takes its training with it
    assert process.wait(120) == 128 + signal.SIGTERM
    assert running_training(segmentor) is None
    assert not (segmentor / 'final-multi-scale').exists()

    done = call(suite, work_dir)
    assert done.returncode == 1
    # The detector has no annotations under that root. It comes first, and the segmentor is trained all the same.
    assert '1 of 2 runs failed: mask-rcnn_1xb4-300_shapes-coco seed 0' in done.stderr
    log = Path(done.stdout.split('failed; log: ')[1].split()[0])
    assert 'error: ' in log.read_text()
    single, multi = (
        json.loads((segmentor / folder / 'run.json').read_text()) for folder in ('final', 'final-multi-scale')
    )
    assert (single['tta'], multi['tta'], single['iterations']) == (False, True, 3)
    assert single['config'] == multi['config'] == f'{Path(SEGMENTOR).stem}_convnext_mini.py'
    assert (single['backbone'], single['config_file']) == ('convnext_mini', SEGMENTOR)
    (row,) = collect([segmentor]).rows()  # so it is not stale: backbone and options are read again
    assert row['config'] == f'{Path(SEGMENTOR).stem}_convnext_mini' and 'a miniature' in row['remarks']
    assert single['config_hash'] == load_suite(suite, work_dir).runs[1].config_hash

    before = (segmentor / 'final' / 'run.json').stat().st_mtime_ns
    only = write(tmp_path / 'only.yaml', cfg_options=options, seeds=[0], multi_scale=True, **segmentors)
    again = call(only, work_dir)
    assert again.returncode == 0 and 'skipped' in again.stdout
    assert (segmentor / 'final' / 'run.json').stat().st_mtime_ns == before

    other = write(
        tmp_path / 'o.yaml',
        cfg_options=[*options, 'train_cfg.max_iters=4'],
        seeds=[0],
        multi_scale=True,
        **segmentors,
    )
    refused = call(other, work_dir)
    assert refused.returncode == 2 and 'finished under another configuration' in refused.stderr
    assert json.loads((segmentor / 'final' / 'run.json').read_text()) == single
