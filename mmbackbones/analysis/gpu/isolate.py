"""Run a phase in a process of its own: a crash, a hang or a broken CUDA context ends that phase and no other."""

import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection

from mmbackbones.analysis.gpu.choices import Phase, Settings
from mmbackbones.analysis.gpu.findings import FAILED, OK, Finding, guarded

END = None  # a child's last message
WAIT = 10  # seconds for a process that has closed its pipe


def findings_of(
    name: str, phase: Phase, settings: Settings, now: Callable[[], float] = time.monotonic
) -> Iterator[Finding]:
    """Findings of a phase as they come.

    If the process dies or takes longer than the phase may, the last finding says so, and the earlier ones stay.

    Args:
        name: what the finding about the process itself is called.
        phase: what to run.
        settings: what its function is given.
        now: clock in seconds.
    """
    context = multiprocessing.get_context('spawn')  # CUDA cannot be used in a forked process
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(sender, phase.function, settings), daemon=True)
    child.start()
    sender.close()
    end = now() + phase.duration
    try:
        while True:
            if not receiver.poll(max(0.0, end - now())):
                yield Finding(name, FAILED, note=f'ended after {phase.duration:g} s, in the middle of a check')
                return
            try:
                found = receiver.recv()
            except EOFError:
                child.join(WAIT)
                yield Finding(name, FAILED, note=f'the process ended with {_exit(child.exitcode)}')
                return
            if found is END:
                return
            yield found
    finally:
        child.kill()
        child.join()
        receiver.close()


def _serve(pipe: Connection, function: str, settings: Settings) -> None:
    """In the child: send every finding, then :data:`END`."""
    module, _, name = function.partition(':')

    def run() -> dict:
        for found in getattr(importlib.import_module(module), name)(settings):
            pipe.send(found)
        return {}

    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not stand within the page
    found = guarded('the phase itself', run)  # an import that fails, or what is raised between two checks
    if found.status != OK:
        pipe.send(replace(found, status=FAILED))
    pipe.send(END)


def _exit(code: int | None) -> str:
    if code is None:
        return 'its pipe closed and did not end'
    return f'signal {-code}' if code < 0 else f'exit status {code}'
