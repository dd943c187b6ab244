"""Real trainings by tools/train.py, killed again and again at moments of a seeded choice, and taken up each time."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from tests.conftest import ROOT

PREEMPTED = 75
ITERATION = re.compile(rb'(?:Iter|Epoch)\(train\)\s+(?:\[\d+\])?\[\s*(\d+)/')
ENVIRONMENT = dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')


@dataclass
class Training:
    """One training: its config and where it happens."""

    config: Path
    work_dir: Path
    log: list[str] = field(default_factory=list)  # what was done to it, for the message of a failing test

    def start(self, *resume: str, fatal: tuple[str, int] | None = None) -> subprocess.Popen:
        program = ['tests/reliability/fatal_train.py', fatal[0], str(fatal[1])] if fatal else ['tools/train.py']
        return subprocess.Popen(
            [sys.executable, '-u', *program, str(self.config), '--work-dir', str(self.work_dir), *resume],
            cwd=ROOT,
            env={**os.environ, 'PYTHONPATH': str(ROOT), **ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *resume: str, fatal: tuple[str, int] | None = None) -> tuple[int, str]:
        """Run to the end, whatever that is; returns the exit code and what was printed."""
        process = self.start(*resume, fatal=fatal)
        text = process.communicate()[0].decode()
        return process.returncode, text

    def kill(self, sent: signal.Signals, after_iterations: int, delay: float) -> int:
        """Take the training up, let some iterations pass and ``delay`` seconds, then send a signal."""
        process = self.start('--resume', 'auto')
        seen, lines = 0, []
        timer = threading.Timer(delay, process.send_signal, [sent])
        for line in process.stdout:  # read on while the timer runs: a full pipe would hold the training up
            lines.append(line)
            if ITERATION.search(line):
                seen += 1
                if seen == after_iterations:
                    timer.start()
        process.wait()
        timer.cancel()
        self.log.append(f'{sent.name} after {after_iterations} iterations: exit {process.returncode}')
        assert process.returncode in (-sent, PREEMPTED), b''.join(lines[-30:]).decode()
        return process.returncode

    def checkpoint(self, name: str) -> dict:
        return torch.load(self.work_dir / name, weights_only=True)


def kill_often(training: Training, kills: int, seed: int, mean_iterations: int, file_bytes: int) -> list[str]:
    """Kill ``kills`` times: by turns at random moments of training, and at random places within saving."""
    choice = random.Random(seed)
    for kill in range(kills):
        kind = ('moment', 'event', 'bytes')[kill % 3]
        if kind == 'moment':
            sent = choice.choice([signal.SIGKILL, signal.SIGTERM])
            training.kill(sent, choice.randint(1, mean_iterations), choice.uniform(0, 0.1))
            continue
        fatal = (kind, choice.randint(0, 12) if kind == 'event' else choice.randint(file_bytes // 10, file_bytes))
        code, text = training.run('--resume', 'auto', fatal=fatal)
        place = 'before file operation {} of saving' if kind == 'event' else 'after byte {} of a file'
        training.log.append(f'{place.format(fatal[1])}: exit {code}')
        assert code == (-signal.SIGKILL if kind == 'event' else -signal.SIGXFSZ), text[-3000:]
    return training.log


def same_bits(one: object, other: object, place: str = '') -> list[str]:
    """Places where two checkpoints' nested data differ; tensors are compared bit for bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return [] if alike and one.numpy().tobytes() == other.numpy().tobytes() else [place]
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return [f'{place}: {one.keys() ^ other.keys()}']
        return [fault for key in one for fault in same_bits(one[key], other[key], f'{place}.{key}')]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [fault for i, (a, b) in enumerate(zip(one, other)) for fault in same_bits(a, b, f'{place}.{i}')]
    return [] if one == other else [place]


def assert_equal(training: Training, reference: Training, name: str, iterations: int) -> None:
    """Weights, optimizer, schedule, random states are the same bits, and every iteration was taken once."""
    ours, theirs = training.checkpoint(name), reference.checkpoint(name)
    faults = [
        fault
        for key in ('state_dict', 'optimizer', 'param_schedulers', 'progress')
        for fault in same_bits(ours[key], theirs[key], key)
    ]
    assert not faults, (faults[:5], training.log)
    steps = {int(state['step']) for state in ours['optimizer']['state'].values()}
    assert steps == {iterations} and ours['meta']['iter'] == iterations, training.log
    losses = ours['message_hub']['log_scalars']['train/loss']['values']
    assert losses.tolist() == theirs['message_hub']['log_scalars']['train/loss']['values'].tolist()
    assert len(losses) == iterations
