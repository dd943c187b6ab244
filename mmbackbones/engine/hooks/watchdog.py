"""End a hang: a run without progress says where it hangs and stops, so that the cluster can start it again."""

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path

from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmbackbones.errors import HANG_EXIT_CODE, InputError
from mmbackbones.registry import HOOKS

LOADING = 'waiting for the next batch: a data loader worker or the storage of the data hangs'
STEPPING = 'inside a training step: a collective that another process never joins, the GPU, or a file being written'
TESTING = 'inside a forward pass of validation or test, or in a collective'


@HOOKS.register_module()
class WatchdogHook(Hook):
    """End a run that hangs in data loading, a training step or a collective, with exit code 4.

    It prints one line that says where the run hangs and for how long. It writes the stacks of all threads to
    ``hang_rank0.txt`` in the work dir. The time between training and test, and the computation of metrics, are not
    watched.

    Args:
        timeout (float): seconds without progress.

    Raises:
        InputError: the timeout is not positive.
    """

    priority = 'LOWEST'

    def __init__(self, timeout: float = 1800.0):
        if timeout <= 0:
            raise InputError(f'WatchdogHook: timeout={timeout} must be positive')
        self.timeout = timeout
        self._doing: tuple[str, float, int] | None = None  # what, since when, at which iteration; one assignment
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def _begin(self, runner: Runner, what: str) -> None:
        self._doing = what, time.monotonic(), runner.iter

    def before_run(self, runner: Runner) -> None:
        self._over.clear()
        self._doing = None
        self._thread = threading.Thread(target=self._watch, args=(runner.work_dir,), daemon=True, name='watchdog')
        self._thread.start()

    def after_run(self, runner: Runner) -> None:
        self._over.set()

    def before_train_epoch(self, runner: Runner) -> None:
        self._begin(runner, LOADING)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self._begin(runner, STEPPING)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._doing = LOADING, time.monotonic(), runner.iter + 1

    def after_train_epoch(self, runner: Runner) -> None:
        self._doing = None

    def before_val_epoch(self, runner: Runner) -> None:
        self._begin(runner, LOADING)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self._begin(runner, TESTING)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._after_evaluated(runner, batch_idx, len(runner.val_dataloader))

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        self._begin(runner, LOADING)  # a training goes on from here

    def before_test_epoch(self, runner: Runner) -> None:
        self._begin(runner, LOADING)

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self._begin(runner, TESTING)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._after_evaluated(runner, batch_idx, len(runner.test_dataloader))

    def _after_evaluated(self, runner: Runner, batch_idx: int, batches: int) -> None:
        if batch_idx + 1 < batches:
            self._begin(runner, LOADING)
        else:
            self._doing = None

    def _watch(self, work_dir: str) -> None:
        while not self._over.wait(min(self.timeout / 4, 10.0)):
            doing = self._doing
            if doing and time.monotonic() - doing[1] > self.timeout:
                self._end(Path(work_dir), *doing)

    def _end(self, work_dir: Path, what: str, since: float, iteration: int) -> None:
        file = work_dir / f'hang_rank{get_rank()}.txt'
        try:
            with file.open('w') as stream:
                faulthandler.dump_traceback(stream, all_threads=True)
            stacks = f'; stacks: {file}'
        except OSError as error:
            stacks = f'; stacks could not be written: {error}'
        who = f'process {get_rank()} of {get_world_size()} ' if get_world_size() > 1 else ''
        print(
            f'error: {who}hangs after iteration {iteration}, for {time.monotonic() - since:.0f} s {what}{stacks}',
            file=sys.stderr,
            flush=True,
        )
        os._exit(HANG_EXIT_CODE)
