"""Command lines by which this package calls itself, without a script of the checkout."""

import os
import sys


def command(name: str, *arguments: str, processes: int = 1, port: int = 29500) -> list[str]:
    """``python -m mmbackbones NAME ARGUMENTS``, with torchrun if there are several processes.

    Args:
        name: ``'train'`` or ``'test'``.
        arguments: arguments of the command.
        processes: number of processes on this machine; 0 and 1: one, without torchrun.
        port: port by which they connect. Several machines set ``NNODES``, ``NODE_RANK`` and ``MASTER_ADDR``, as for
            ``tools/dist_train.sh``.
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
