"""Real processes by torchrun with gloo, on one machine and on two in network namespaces: the same results, whatever
their number; and when one dies, all stop and say why."""

import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.optim import OptimWrapper

from mmbackbones.datasets.shapes import write_shapes
from mmbackbones.engine.runner import Runner
from tests.conftest import ROOT
from tests.reliability.harness import same_bits
from tests.reliability.one_step import one_step

SEGMENTOR = 'configs/quickstart/mambaout-mini_upernet_1xb8-500_shapes-ade20k-128x128.py'
DETECTOR = 'configs/quickstart/mask-rcnn_mambaout-mini_fpn_1xb4-300_shapes-coco.py'
ENVIRONMENT = dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PYTHON=sys.executable)
TIMEOUT = 900  # seconds; a hang, whatever the machine


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def start(*command: object, within: tuple[str, ...] = (), **environment: str) -> subprocess.Popen:
    program = [sys.executable] if str(command[0]).endswith('.py') else ['bash']
    return subprocess.Popen(
        [*within, *program, *map(str, command)],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> str:
    """What it printed; it must have succeeded."""
    try:
        text = process.communicate(timeout=TIMEOUT)[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, text[-5000:]
    return text


def by(processes: int, tool: str, *arguments: object) -> str:
    if processes == 1:
        return finish(start(f'tools/{tool}.py', *arguments))
    config, *rest = arguments
    count = [config, processes] if tool == 'train' else [config, rest.pop(0), processes]
    return finish(start(f'tools/dist_{tool}.sh', *count, *rest, PORT=free_port()))


def end(process: subprocess.Popen, timeout: float = TIMEOUT) -> str:
    """What it printed; it must have failed by itself, its workers with it."""
    workers = [worker['pid'] for worker in workers_of(process)]
    try:
        text = process.communicate(timeout=timeout)[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode not in (0, None), text[-3000:]
    assert not [pid for pid in workers if Path(f'/proc/{pid}').exists()]
    return text


def faulty(folder: Path, hook: str, **default_hooks: dict) -> Path:
    """The segmentor's config with a hook of faulty_rank.py; its commands need ROOT in PYTHONPATH."""
    config = folder / 'faulty.py'
    config.write_text(
        f'_base_ = {str(ROOT / SEGMENTOR)!r}\n'
        "custom_imports = dict(imports=['tests.reliability.faulty_rank'], allow_failed_imports=False)\n"
        f'custom_hooks = [dict(type={hook!r})]\ndefault_hooks = {default_hooks}\n'
    )
    return config


def record(folder: Path) -> dict:
    return json.loads((folder / 'run.json').read_text())


@pytest.fixture(scope='module')
def shapes(tmp_path_factory) -> Path:
    return write_shapes(tmp_path_factory.mktemp('data') / 'shapes', train=12, val=7)


def options(shapes: Path, config: str) -> list[str]:
    folder = shapes / ('coco' if config == DETECTOR else 'ade20k')
    roots = [f'{split}_dataloader.dataset.data_root={folder}/' for split in ('train', 'test')]
    evaluator = [f'test_evaluator.ann_file={folder}/annotations/instances_val2017.json'] if config == DETECTOR else []
    return [
        '--cfg-options',
        *roots,
        *evaluator,
        'train_dataloader.batch_size=2',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.interval=2',
    ]


@pytest.fixture(scope='module', params=[DETECTOR, SEGMENTOR], ids=['detector', 'segmentor'])
def trained(request, tmp_path_factory, shapes) -> tuple[str, Path]:
    work_dir = tmp_path_factory.mktemp('trained')
    by(1, 'train', request.param, '--work-dir', work_dir, *options(shapes, request.param), 'train_cfg.max_iters=4')
    return request.param, work_dir


@pytest.fixture(scope='module')
def by_two(tmp_path_factory, shapes) -> Path:
    """Work dir of four iterations of two processes."""
    work_dir = tmp_path_factory.mktemp('by_two')
    by(2, 'train', SEGMENTOR, '--work-dir', work_dir, *options(shapes, SEGMENTOR), 'train_cfg.max_iters=4')
    return work_dir


def assert_same_training(one: Path, other: Path) -> None:
    """Every bit of weights, optimizer, schedule and the random states of all processes."""
    one, other = (torch.load(path, weights_only=True) for path in (one, other))
    for key in ('state_dict', 'optimizer', 'param_schedulers', 'progress'):
        assert not same_bits(one[key], other[key], key)


@pytest.mark.slow
@pytest.mark.promise('processes-scores')
@pytest.mark.parametrize('processes', [2, 4])
def test_seven_images(trained, processes, shapes, tmp_path):
    """One image less than equal shares: the same predictions, image by image, and the same scores."""
    config, work_dir = trained
    by(
        processes,
        'test',
        config,
        work_dir / 'iter_4.pth',
        '--work-dir',
        tmp_path / 'w',
        '--out',
        tmp_path / 'out',
        *options(shapes, config),
    )
    ours, alone = record(tmp_path / 'out'), record(work_dir / 'final')
    assert ours['world_size'] == processes and len(ours['image_ids']) == 7
    assert ours['metrics'] == pytest.approx(alone['metrics'], abs=1e-6)
    assert alone['metrics']['mIoU' if config == SEGMENTOR else 'coco/bbox_mAP_50'] > 0
    if config == SEGMENTOR:
        with np.load(tmp_path / 'out/areas.npz') as one, np.load(work_dir / 'final/areas.npz') as other:
            assert all(np.array_equal(one[key], other[key]) for key in other.files)
        return
    for kind in ('bbox', 'segm'):  # the metrics have three digits
        ours, alone = (
            json.loads((folder / f'predictions.{kind}.json').read_text())
            for folder in (tmp_path / 'out', work_dir / 'final')
        )
        assert len(ours) == len(alone) > 0
        for one, other in zip(
            *(sorted(found, key=lambda item: (item['image_id'], -item['score'], str(item))) for found in (ours, alone))
        ):
            assert one['image_id'] == other['image_id'] and one['category_id'] == other['category_id']
            assert [one['score'], *one['bbox']] == pytest.approx([other['score'], *other['bbox']], abs=1e-6)
            assert one.get('segmentation') == other.get('segmentation')


@pytest.mark.slow
@pytest.mark.promise('processes-resume')
@pytest.mark.parametrize('trained', [SEGMENTOR], indirect=True, ids=['segmentor'])
def test_resume_with_another_number_of_processes(trained, shapes, tmp_path):
    """One process to iteration 4, two to 6, four to 8; each says what it cannot restore, and the schedule goes on."""
    config, first = trained
    common = [*options(shapes, config)]
    by(2, 'train', config, '--work-dir', tmp_path, '--resume', first / 'iter_4.pth', *common, 'train_cfg.max_iters=6')
    assert record(tmp_path / 'final')['world_size'] == 2
    text = by(4, 'train', config, '--work-dir', tmp_path, '--resume', *common, 'train_cfg.max_iters=8')
    assert 'iter_6.pth' in text and re.findall(r'Iter\(train\) \[ *(\d+)/8\]', text) == ['7', '8']
    assert 'resumed with another number of processes: the random states begin anew' in text
    last = torch.load(tmp_path / 'iter_8.pth', weights_only=True)
    assert {int(state['step']) for state in last['optimizer']['state'].values()} == {8}
    done = record(tmp_path / 'final')
    assert done['world_size'] == 4 and done['iterations'] == 8 and done['resumed']


@pytest.mark.slow
@pytest.mark.promise('data-drop', 'large-batch')
def test_two_processes_drop_the_same_and_scale_the_rate(shapes, tmp_path):
    """The faulty mask is left out in both; 2 images x 2 processes x 2 accumulated, of 16: half the rate."""
    spoilt = write_shapes(tmp_path / 'shapes', train=5, val=2)
    (spoilt / 'ade20k/annotations/training/ADE_train_00000004.png').write_bytes(b'404')
    text = by(
        2,
        'train',
        SEGMENTOR,
        '--work-dir',
        tmp_path / 'w',
        '--auto-scale-lr',
        *options(spoilt, SEGMENTOR),
        'train_cfg.max_iters=2',
        'data_check=drop',
        'optim_wrapper.accumulative_counts=2',
    )
    assert 'left out of the training (images: 1)' in text and 'ADE_train_00000004.png: not a readable mask' in text
    assert len((tmp_path / 'w/data_kept_0.txt').read_text().split()) == 4
    assert 'Scaling the original LR by 0.5' in text


@pytest.mark.slow
@pytest.mark.promise('process-killed')
@pytest.mark.parametrize('processes', [2, 4])
def test_one_process_killed_stops_the_others(processes, shapes, tmp_path, figure):
    process = start(
        'tools/dist_train.sh',
        SEGMENTOR,
        processes,
        '--work-dir',
        tmp_path,
        *options(shapes, SEGMENTOR),
        'train_cfg.max_iters=100000',
        PORT=free_port(),
    )
    seen = until_third_step(process)
    victim = kill_a_worker(process, rank=1)
    killed = time.monotonic()
    text = seen + end(process, timeout=60)
    figure(f'{processes} processes: all stopped {time.monotonic() - killed:.1f} s after the kill')
    assert f'Signal 9 (SIGKILL) received by PID {victim}' in text, text[-3000:]


@pytest.mark.slow
@pytest.mark.promise('numerics')
def test_two_processes_skip_and_stop_together(shapes, tmp_path):
    """NaN in an image of process 1, in two steps; one skip is allowed. Each process names its own images."""
    config = faulty(tmp_path, 'SpoiltRank', numerics=dict(max_skips=1))
    process = start(
        'tools/dist_train.sh',
        config,
        2,
        '--work-dir',
        tmp_path / 'w',
        *options(shapes, SEGMENTOR),
        'train_cfg.max_iters=100',
        PORT=free_port(),
        PYTHONPATH=str(ROOT),
    )
    text = end(process)
    assert 'error: numerical trouble at iteration 4: ' in text and re.search(r'exitcode *: 3 ', text), text[-3000:]
    reports = {path.stem: json.loads(path.read_text()) for path in (tmp_path / 'w/numerical_trouble').iterdir()}
    assert {name: report['action'] for name, report in reports.items()} == {
        'iter_2_rank0': 'skipped (1 of 1)',
        'iter_2_rank1': 'skipped (1 of 1)',
        'iter_4_rank0': 'stopped',
        'iter_4_rank1': 'stopped',
    }
    assert [reports[f'iter_4_rank{rank}']['losses']['loss'] == 'nan' for rank in range(2)] == [False, True]
    assert all(report['gradients_not_finite']['count'] for report in reports.values())  # they are shared
    images = [set(reports[f'iter_4_rank{rank}']['images']) for rank in range(2)]
    assert all(images) and not images[0] & images[1]
    saved = torch.load(tmp_path / 'w/iter_2.pth', weights_only=True)['state_dict']
    assert all(value.isfinite().all() for value in saved.values())


@pytest.mark.slow
@pytest.mark.promise('hang')
def test_a_process_that_hangs_ends_both(shapes, tmp_path, figure):
    """Process 1 stays within its step and the other waits for its gradients. Whichever watchdog is first, the launcher
    or the broken connection may end the other process before its own."""
    config = faulty(tmp_path, 'HangingRank', watchdog=dict(timeout=20.0))
    process = start(
        'tools/dist_train.sh',
        config,
        2,
        '--work-dir',
        tmp_path / 'w',
        *options(shapes, SEGMENTOR),
        'train_cfg.max_iters=100',
        PORT=free_port(),
        PYTHONPATH=str(ROOT),
    )
    text = end(process)
    assert re.search(r'exitcode *: 4 ', text), text[-3000:]
    stacks = {path.name: path.read_text() for path in (tmp_path / 'w').glob('hang_rank*.txt')}
    told = re.findall(r'error: process (\d) of 2 hangs after iteration \d+, for \d+ s inside a training step', text)
    told = {f'hang_rank{rank}.txt' for rank in told}
    assert told and told <= stacks.keys(), text[-3000:]
    where = {'hang_rank0.txt': 'backward', 'hang_rank1.txt': 'faulty_rank.py'}
    for name in told:  # the broken connection may just have thrown process 0 out of its step
        assert where[name] in stacks[name] or (name == 'hang_rank0.txt' and 'in run_iter' not in stacks[name]), stacks
    figure(f'2 processes: ended with code 4, {" and ".join(sorted(told))} written')


@pytest.mark.slow
@pytest.mark.promise('sigterm')
def test_sigterm_to_one_of_two_processes(by_two, shapes, tmp_path, figure):
    """In the second step; they agree after the third, save, and stop. Resumed, it is the uninterrupted run."""
    config = faulty(tmp_path, 'TerminatedRank', preemption=dict(agree_every=3))
    common = ['--work-dir', tmp_path / 'w', *options(shapes, SEGMENTOR), 'train_cfg.max_iters=4']
    text = end(start('tools/dist_train.sh', config, 2, *common, PORT=free_port(), PYTHONPATH=str(ROOT)))
    assert 'SIGTERM: stopped at iteration 3; the newest checkpoint is iter_3.pth' in text, text[-3000:]
    assert re.search(r'exitcode *: 75 ', text), text[-3000:]
    by(2, 'train', SEGMENTOR, '--resume', 'auto', *common)
    assert_same_training(by_two / 'iter_4.pth', tmp_path / 'w/iter_4.pth')
    figure('2 processes: every bit equal')


def until_third_step(process: subprocess.Popen) -> str:
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(r'Iter\(train\) \[ *3/', line):
            break
    return ''.join(lines)


def kill_a_worker(launcher: subprocess.Popen, rank: int) -> int:
    victim = next(worker for worker in workers_of(launcher) if worker['RANK'] == str(rank))
    os.kill(victim['pid'], signal.SIGKILL)
    return victim['pid']


def workers_of(launcher: subprocess.Popen) -> list[dict]:
    """pid and environment of the processes of the launcher's session that have a rank."""
    found = []
    for folder in Path('/proc').iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if os.getsid(int(folder.name)) == launcher.pid or _parent(folder) == launcher.pid:
                    pairs = [item.split('=', 1) for item in (folder / 'environ').read_text().split('\0') if '=' in item]
                    if 'RANK' in dict(pairs):
                        found.append(dict(pairs, pid=int(folder.name)))
    return found


def _parent(folder: Path) -> int:
    return int((folder / 'stat').read_text().rpartition(')')[2].split()[1])


@pytest.fixture(scope='module')
def machines() -> Iterator[list[str]]:
    """Two network namespaces joined by a cable, by name."""
    names = [f'mmb{os.getpid()}{end}' for end in 'ab']
    setup = [*(f'netns add {name}' for name in names), f'link add {names[0]} type veth peer name {names[1]}']
    for number, name in enumerate(names, 1):
        setup += [
            f'link set {name} netns {name}',
            f'-n {name} addr add 10.199.7.{number}/24 dev {name}',
            f'-n {name} link set {name} up',
            f'-n {name} link set lo up',
        ]
    try:
        for line in setup:
            try:
                subprocess.run(['ip', *line.split()], check=True, capture_output=True, text=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f'no network namespaces here: ip {line}: {getattr(error, "stderr", error)}'.strip())
        yield names
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                subprocess.run(['ip', 'netns', 'del', name], capture_output=True)


def start_on(machines: list[str], *command: object) -> list[subprocess.Popen]:
    """The same command on each machine, as a user gives it; one process on each."""
    return [
        start(
            *command,
            within=('ip', 'netns', 'exec', name),
            NNODES='2',
            NODE_RANK=str(number),
            MASTER_ADDR='10.199.7.1',
            PORT='29533',
            GLOO_SOCKET_IFNAME=name,
            TP_SOCKET_IFNAME=name,
        )
        for number, name in enumerate(machines)
    ]


@pytest.mark.slow
@pytest.mark.promise('machines')
@pytest.mark.parametrize('trained', [SEGMENTOR], indirect=True, ids=['segmentor'])
def test_two_machines_test_as_one_process(trained, machines, shapes, tmp_path):
    """Four images on one, three on the other."""
    config, work_dir = trained
    for run in start_on(
        machines,
        'tools/dist_test.sh',
        config,
        work_dir / 'iter_4.pth',
        1,
        '--work-dir',
        tmp_path / 'w',
        '--out',
        tmp_path / 'out',
        *options(shapes, config),
    ):
        finish(run)
    assert record(tmp_path / 'out')['world_size'] == 2
    assert record(tmp_path / 'out')['metrics'] == pytest.approx(record(work_dir / 'final')['metrics'], abs=1e-6)


@pytest.mark.slow
@pytest.mark.promise('machines')
def test_two_machines_train_as_one(machines, by_two, shapes, tmp_path, figure):
    """A process on each gives what two on one machine give, bit for bit. What they began, one machine ends: two
    processes as if nothing had happened, one with random states of its own."""
    common = [*options(shapes, SEGMENTOR), 'train_cfg.max_iters=4']
    for run in start_on(machines, 'tools/dist_train.sh', SEGMENTOR, 1, '--work-dir', tmp_path / 'two', *common):
        finish(run)
    by(2, 'train', SEGMENTOR, '--work-dir', tmp_path / 'ended', '--resume', tmp_path / 'two/iter_2.pth', *common)
    for name in ('two', 'ended'):
        assert_same_training(by_two / 'iter_4.pth', tmp_path / name / 'iter_4.pth')
    figure('trained on two machines, and ended by two processes on one: every bit equal')
    assert record(tmp_path / 'two/final')['metrics'] == record(by_two / 'final')['metrics']
    text = by(1, 'train', SEGMENTOR, '--work-dir', tmp_path / 'two', '--resume', *common[:-1], 'train_cfg.max_iters=6')
    assert 'iter_4.pth' in text and re.findall(r'Iter\(train\) \[ *(\d+)/6\]', text) == ['5', '6']
    last = torch.load(tmp_path / 'two/iter_6.pth', weights_only=True)
    assert {int(state['step']) for state in last['optimizer']['state'].values()} == {6}


@pytest.mark.slow
@pytest.mark.promise('process-killed', 'machines')
def test_a_machine_whose_process_is_killed_stops_the_other(machines, shapes, tmp_path, figure):
    here, there = start_on(
        machines,
        'tools/dist_train.sh',
        SEGMENTOR,
        1,
        '--work-dir',
        tmp_path,
        *options(shapes, SEGMENTOR),
        'train_cfg.max_iters=100000',
    )
    until_third_step(here)
    victim = kill_a_worker(there, rank=1)
    killed = time.monotonic()
    texts = [end(run, timeout=60) for run in (here, there)]
    figure(f'2 machines: both stopped {time.monotonic() - killed:.1f} s after the kill')
    assert re.search(r'RuntimeError: .*([Cc]onnection (closed|reset) by peer)', texts[0]), texts[0][-3000:]
    assert f'Signal 9 (SIGKILL) received by PID {victim}' in texts[1], texts[1][-3000:]


@pytest.mark.promise('large-batch')
@pytest.mark.parametrize('accumulated', [2, 4])
def test_accumulation_equals_the_large_batch(accumulated):
    whole, parts, half = one_step(0, 1, 1), one_step(0, 1, accumulated), one_step(0, 2, 1)
    torch.testing.assert_close(dict(parts), dict(whole))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(dict(half), dict(whole))


@pytest.mark.slow
@pytest.mark.promise('large-batch')
@pytest.mark.parametrize(('processes', 'accumulated'), [(2, 2), (4, 1)])
def test_processes_equal_the_large_batch(processes, accumulated, tmp_path):
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        f'--nproc_per_node={processes}',
        f'--master_port={free_port()}',
        'tests/reliability/one_step.py',
        str(tmp_path / 'w'),
        str(accumulated),
    ]
    subprocess.run(
        command, cwd=ROOT, env={**os.environ, **ENVIRONMENT, 'PYTHONPATH': str(ROOT)}, check=True, timeout=TIMEOUT
    )
    torch.testing.assert_close(dict(torch.load(tmp_path / 'w', weights_only=True)), dict(one_step(0, 1, 1)))


@pytest.mark.promise('large-batch')
@pytest.mark.parametrize(
    ('batch', 'processes', 'accumulated', 'factor'),
    [(2, 8, 1, 1.0), (2, 4, 2, 1.0), (4, 1, 4, 1.0), (16, 1, 1, 1.0), (8, 4, 1, 2.0), (2, 1, 2, 0.25)],
)
def test_scaled_rate_counts_accumulated_images(batch, processes, accumulated, factor, monkeypatch):
    runner = Runner.__new__(Runner)
    runner._train_dataloader, runner.param_schedulers = ConfigDict(batch_size=batch), None
    monkeypatch.setattr(Runner, 'world_size', processes)
    runner.logger = logging.getLogger(__name__)
    weight = torch.nn.Parameter(torch.zeros(1))
    wrapper = OptimWrapper(torch.optim.SGD([weight], lr=0.5), accumulative_counts=accumulated)
    runner.scale_lr(wrapper, dict(enable=True, base_batch_size=16))
    assert wrapper.get_lr()['lr'] == [0.5 * factor]
