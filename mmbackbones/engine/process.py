"""Run the commands ``train`` and ``test`` in a separate process and write their output to a log."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mmbackbones.errors import InputError


def run_logged(command: str, arguments: Sequence[str], log: Path, what: str) -> None:
    """Run ``python -m mmbackbones COMMAND ARGUMENTS`` and wait for its end.

    Args:
        command: ``'train'`` or ``'test'``.
        arguments: arguments of the command.
        log: file for its output; parent folders are made.
        what: name of the run in the message.

    Raises:
        InputError: the command failed; the message names the log and the last error line of the command.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open('w') as file:
        status = subprocess.run(
            [sys.executable, '-m', 'mmbackbones', command, *map(str, arguments)],
            env={'OMP_NUM_THREADS': '1', **os.environ},
            stdout=file,
            stderr=subprocess.STDOUT,
        ).returncode
    if status:
        errors = [line for line in log.read_text().splitlines() if line.startswith('error: ')]
        raise InputError(
            f'{what} ended with status {status}; the log is {log}' + (f' ({errors[-1]})' if errors else '')
        )
