"""Real trainings and tests of several processes, on one machine and on two, and how they end."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

SEGMENTOR = 'configs/quickstart/upernet_1xb8-500_shapes-ade20k-128x128.py'
DETECTOR = 'configs/quickstart/mask-rcnn_1xb4-300_shapes-coco.py'
ENVIRONMENT = dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PYTHON=sys.executable)
TIMEOUT = 900  # seconds; a hang, whatever the machine


def free_port() -> str:
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return str(one.getsockname()[1])


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


def start_two(config: Path, *arguments: object) -> subprocess.Popen:
    """Two processes of a training whose config names modules of the tests."""
    return start('tools/dist_train.sh', config, 2, *arguments, PORT=free_port(), PYTHONPATH=str(ROOT))


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
