"""Stop what a suite has started: a signal travels from the suite through submitit's processes to the training.

The suite sends SIGTERM to submitit's controller, which passes it on to the job, which passes it on to the training. The
training saves and ends. A second SIGTERM ends it at once.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from types import FrameType

import submitit

POLL_S = 0.2


class StoppableCommand:
    """Run commands one after the other; SIGTERM to this process goes to the command, and no further one starts."""

    def __init__(self) -> None:
        self._asked = False
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> 'StoppableCommand':
        self._before = signal.signal(signal.SIGTERM, self._stop)
        return self

    def __exit__(self, *_) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def __call__(self, call: Sequence[str], environment: dict[str, str], own_group: bool = False) -> None:
        """Run a command and wait for its end.

        Args:
            call: program and arguments.
            environment: its environment variables.
            own_group: whether it is outside this process group, so that Ctrl-C does not reach it.

        Raises:
            subprocess.CalledProcessError: it failed or was stopped.
        """
        if self._asked:
            raise subprocess.CalledProcessError(-signal.SIGTERM, call)
        self._process = subprocess.Popen(call, env=environment, start_new_session=own_group)
        if self._asked:  # the signal came while it started
            self._process.terminate()
        try:
            status = self._process.wait()
        except BaseException:  # such as the exit by which submitit leaves a preempted job
            self._process.terminate()
            self._process.wait()
            raise
        if status or self._asked:
            raise subprocess.CalledProcessError(status or -signal.SIGTERM, call)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()


def submit(executor: submitit.Executor, function: Callable[[], None]) -> submitit.Job:
    """Submit a job whose processes ignore Ctrl-C, because the suite tells them to stop."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return executor.submit(function)
    finally:
        signal.signal(signal.SIGINT, before)


def stop_jobs(jobs: Sequence[submitit.Job]) -> None:
    """Tell jobs on this machine to save and stop, and wait for them. Another signal meanwhile ends them at once."""
    alive = list(jobs)
    while alive := [job for job in alive if not job.done()]:
        print(f'stopping {len(alive)} running jobs; they save first', flush=True)
        for job in alive:
            os.kill(int(job.job_id), signal.SIGTERM)  # the id of a local job is that of its process
        try:
            while not all(job.done() for job in alive):
                time.sleep(POLL_S)
        except (KeyboardInterrupt, SystemExit):
            continue
