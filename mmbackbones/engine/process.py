"""The commands ``train`` and ``test`` in processes of their own: no script of a checkout is needed."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mmbackbones.errors import InputError


def command(name: str, *arguments: str, processes: int = 1, port: int = 29500) -> list[str]:
    """``python -m mmbackbones NAME ARGUMENTS``, by torchrun where there are several processes.

    Args:
        name: ``'train'`` or ``'test'``.
        arguments: of the command.
        processes: on this machine; 0 and 1: this python alone.
        port: where they find each other. As for ``tools/dist_train.sh``, several machines set ``NNODES``,
            ``NODE_RANK`` and ``MASTER_ADDR``.
    """
    call = ['-m', 'mmbackbones', name, *arguments]
    if processes < 2:
        return [sys.executable, *call]
    place = os.environ.get
    return [
        sys.executable,
        '-m',
        'torch.distributed.run',
        f'--nnodes={place("NNODES", "1")}',
        f'--node_rank={place("NODE_RANK", "0")}',
        f'--master_addr={place("MASTER_ADDR", "127.0.0.1")}',
        f'--master_port={port}',
        f'--nproc_per_node={processes}',
        *call,
        '--launcher',
        'pytorch',
    ]


def run_logged(name: str, arguments: Sequence[str], log: Path, what: str) -> None:
    """Run ``python -m mmbackbones NAME ARGUMENTS`` and wait for its end.

    Args:
        name: ``'train'`` or ``'test'``.
        arguments: arguments of the command.
        log: file for its output; parent folders are made.
        what: name of the run in the message.

    Raises:
        InputError: the command failed; the message names the log and the last error line of the command.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('w') as file:
        status = subprocess.run(
            command(name, *map(str, arguments)),
            env={'OMP_NUM_THREADS': '1', **os.environ},
            stdout=file,
            stderr=subprocess.STDOUT,
        ).returncode
    if status:
        errors = [line for line in log.read_text().splitlines() if line.startswith('error: ')]
        raise InputError(
            f'{what} ended with status {status}; the log is {log}' + (f' ({errors[-1]})' if errors else '')
        )
