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
        [*within, *program, *map(str, command)], cwd=ROOT, env={**os.environ, **ENVIRONMENT, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


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


def record(folder: Path) -> dict:
    return json.loads((folder / 'run.json').read_text())


@pytest.fixture(scope='module')
def shapes(tmp_path_factory) -> Path:
    return write_shapes(tmp_path_factory.mktemp('data') / 'shapes', train=12, val=7)


def options(shapes: Path, config: str) -> list[str]:
    folder = shapes / ('coco' if config == DETECTOR else 'ade20k')
    roots = [f'{split}_dataloader.dataset.data_root={folder}/' for split in ('train', 'test')]
    evaluator = [f'test_evaluator.ann_file={folder}/annotations/instances_val2017.json'] if config == DETECTOR else []
    return ['--cfg-options', *roots, *evaluator, 'train_dataloader.batch_size=2', 'default_hooks.logger.interval=1',
            'default_hooks.checkpoint.interval=2']


@pytest.fixture(scope='module', params=[DETECTOR, SEGMENTOR], ids=['detector', 'segmentor'])
def trained(request, tmp_path_factory, shapes) -> tuple[str, Path]:
    work_dir = tmp_path_factory.mktemp('trained')
    by(1, 'train', request.param, '--work-dir', work_dir, *options(shapes, request.param), 'train_cfg.max_iters=4')
    return request.param, work_dir


@pytest.mark.slow
def test_seven_images_on_four_processes(trained, shapes, tmp_path):
    """One image less than two each: the same predictions, image by image, and the same scores."""
    config, work_dir = trained
    by(4, 'test', config, work_dir / 'iter_4.pth', '--work-dir', tmp_path / 'w', '--out', tmp_path / 'out',
       *options(shapes, config))
    ours, alone = record(tmp_path / 'out'), record(work_dir / 'final')
    assert ours['world_size'] == 4 and len(ours['image_ids']) == 7
    assert ours['metrics'] == pytest.approx(alone['metrics'], abs=1e-6)
    if config == SEGMENTOR:
        assert alone['metrics']['mIoU'] > 0
        with np.load(tmp_path / 'out/areas.npz') as one, np.load(work_dir / 'final/areas.npz') as other:
            assert all(np.array_equal(one[key], other[key]) for key in other.files)
        return
    ours, alone = (json.loads((folder / 'predictions.bbox.json').read_text())
                   for folder in (tmp_path / 'out', work_dir / 'final'))
    assert len(ours) == len(alone) > 0  # few iterations score nothing, so the boxes are compared
    for one, other in zip(*(sorted(found, key=lambda box: (box['image_id'], -box['score'], box['bbox']))
                            for found in (ours, alone))):
        assert one['image_id'] == other['image_id'] and one['category_id'] == other['category_id']
        assert [one['score'], *one['bbox']] == pytest.approx([other['score'], *other['bbox']], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize('trained', [SEGMENTOR], indirect=True, ids=['segmentor'])
def test_resume_with_another_number_of_processes(trained, shapes, tmp_path):
    """One process to iteration 4, two to 6, four to 8; each says what it cannot restore, and the schedule goes on."""
    config, first = trained
    common = [*options(shapes, config)]
    by(2, 'train', config, '--work-dir', tmp_path, '--resume', first / 'iter_4.pth', *common, 'train_cfg.max_iters=6')
    assert record(tmp_path / 'final')['world_size'] == 2
    text = by(4, 'train', config, '--work-dir', tmp_path, '--resume', *common, 'train_cfg.max_iters=8')
    assert 'iter_6.pth' in text and re.findall(r'Iter\(train\) \[ *(\d+)/8\]', text) == ['7', '8']
    last = torch.load(tmp_path / 'iter_8.pth', weights_only=True)
    assert {int(state['step']) for state in last['optimizer']['state'].values()} == {8}
    done = record(tmp_path / 'final')
    assert done['world_size'] == 4 and done['iterations'] == 8 and done['resumed']


@pytest.mark.slow
def test_two_processes_drop_the_same_and_scale_the_rate(shapes, tmp_path):
    """The faulty mask is left out in both; 2 images x 2 processes x 2 accumulated, of 16: half the rate."""
    spoilt = write_shapes(tmp_path / 'shapes', train=5, val=2)
    (spoilt / 'ade20k/annotations/training/ADE_train_00000004.png').write_bytes(b'404')
    text = by(2, 'train', SEGMENTOR, '--work-dir', tmp_path / 'w', '--auto-scale-lr', *options(spoilt, SEGMENTOR),
              'train_cfg.max_iters=2', 'data_check=drop', 'optim_wrapper.accumulative_counts=2')
    assert 'left out of the training (images: 1)' in text and 'ADE_train_00000004.png: not a readable mask' in text
    assert len((tmp_path / 'w/data_kept_0.txt').read_text().split()) == 4
    assert 'Scaling the original LR by 0.5' in text


@pytest.mark.slow
def test_one_process_killed_stops_the_others(shapes, tmp_path):
    process = start('tools/dist_train.sh', SEGMENTOR, 2, '--work-dir', tmp_path, *options(shapes, SEGMENTOR),
                    'train_cfg.max_iters=100000', PORT=free_port())
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(r'Iter\(train\) \[ *3/', line):
            break
    victim = next(worker for worker in workers_of(process) if worker['RANK'] == '1')
    group = [worker['pid'] for worker in workers_of(process)]
    os.kill(victim['pid'], signal.SIGKILL)
    killed = time.monotonic()
    try:
        lines.append(process.communicate(timeout=60)[0])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    text = ''.join(lines)
    print(f'stopped {time.monotonic() - killed:.1f} s after the kill')
    assert process.returncode not in (0, None), text[-3000:]
    assert not [pid for pid in group if Path(f'/proc/{pid}').exists()]
    assert f'Signal 9 (SIGKILL) received by PID {victim["pid"]}' in text, text[-3000:]


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


@contextlib.contextmanager
def two_machines() -> Iterator[list[tuple[str, ...]]]:
    """Two network namespaces joined by a cable; yields what runs a command in each."""
    names = [f'mmb{os.getpid()}{end}' for end in 'ab']
    setup = [*(f'netns add {name}' for name in names), f'link add {names[0]} type veth peer name {names[1]}']
    for number, name in enumerate(names, 1):
        setup += [f'link set {name} netns {name}', f'-n {name} addr add 10.199.7.{number}/24 dev {name}',
                  f'-n {name} link set {name} up', f'-n {name} link set lo up']
    try:
        for line in setup:
            try:
                subprocess.run(['ip', *line.split()], check=True, capture_output=True, text=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f'no network namespaces here: ip {line}: {getattr(error, "stderr", error)}')
        yield [('ip', 'netns', 'exec', name) for name in names]
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                subprocess.run(['ip', 'netns', 'del', name], capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize('trained', [SEGMENTOR], indirect=True, ids=['segmentor'])
def test_two_machines(trained, shapes, tmp_path):
    """Two network namespaces, a process in each: the scores of one process alone."""
    config, work_dir = trained
    with two_machines() as machines:
        runs = []
        for number, machine in enumerate(machines):
            interface = machine[-1]
            runs.append(start(
                'tools/dist_test.sh', config, work_dir / 'iter_4.pth', 1, '--work-dir', tmp_path / 'w', '--out',
                tmp_path / 'out', *options(shapes, config), within=machine, NNODES='2', NODE_RANK=str(number),
                MASTER_ADDR='10.199.7.1', PORT='29533', GLOO_SOCKET_IFNAME=interface, TP_SOCKET_IFNAME=interface))
        for run in runs:
            finish(run)
    assert record(tmp_path / 'out')['world_size'] == 2
    assert record(tmp_path / 'out')['metrics'] == pytest.approx(record(work_dir / 'final')['metrics'], abs=1e-6)


@pytest.mark.parametrize('accumulated', [2, 4])
def test_accumulation_equals_the_large_batch(accumulated):
    whole, parts, half = one_step(0, 1, 1), one_step(0, 1, accumulated), one_step(0, 2, 1)
    torch.testing.assert_close(dict(parts), dict(whole))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(dict(half), dict(whole))


@pytest.mark.slow
@pytest.mark.parametrize(('processes', 'accumulated'), [(2, 2), (4, 1)])
def test_processes_equal_the_large_batch(processes, accumulated, tmp_path):
    command = [sys.executable, '-m', 'torch.distributed.run', f'--nproc_per_node={processes}',
               f'--master_port={free_port()}', 'tests/reliability/one_step.py', str(tmp_path / 'w'), str(accumulated)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **ENVIRONMENT, 'PYTHONPATH': str(ROOT)}, check=True,
                   timeout=TIMEOUT)
    torch.testing.assert_close(dict(torch.load(tmp_path / 'w', weights_only=True)), dict(one_step(0, 1, 1)))


@pytest.mark.parametrize(('batch', 'processes', 'accumulated', 'factor'), [
    (2, 8, 1, 1.), (2, 4, 2, 1.), (4, 1, 4, 1.), (16, 1, 1, 1.), (8, 4, 1, 2.), (2, 1, 2, 0.25)])
def test_scaled_rate_counts_accumulated_images(batch, processes, accumulated, factor, monkeypatch):
    runner = Runner.__new__(Runner)
    runner._train_dataloader, runner.param_schedulers = ConfigDict(batch_size=batch), None
    monkeypatch.setattr(Runner, 'world_size', processes)
    runner.logger = logging.getLogger(__name__)
    weight = torch.nn.Parameter(torch.zeros(1))
    wrapper = OptimWrapper(torch.optim.SGD([weight], lr=0.5), accumulative_counts=accumulated)
    runner.scale_lr(wrapper, dict(enable=True, base_batch_size=16))
    assert wrapper.get_lr()['lr'] == [0.5 * factor]
