"""Handle SIGTERM, which clusters send before they take a machine away: save and exit with a code for "start again"."""

import os
import signal
import threading

import torch
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmbackbones.engine.hooks.checkpoint import CheckpointHook
from mmbackbones.errors import InputError, Preempted
from mmbackbones.registry import HOOKS


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Save at the end of the iteration in which SIGTERM arrives, then stop with exit code 75.

    A training by epochs resumes from finished epochs only, so nothing is saved within an epoch. A second SIGTERM ends
    the process at once.

    Args:
        agree_every (int): number of iterations after which several processes agree whether to stop. The signal reaches
            them at different times. A process that stops alone would leave the others hanging.

    Raises:
        InputError: ``agree_every`` is below 1.
    """

    priority = 'LOWEST'  # after the hook that saves

    def __init__(self, agree_every: int = 10):
        if agree_every < 1:
            raise InputError(f'PreemptionHook: agree_every={agree_every} must be at least 1')
        self.agree_every = agree_every
        self._wanted = False
        self._previous = None
        self._process = os.getpid()

    def before_run(self, runner: Runner) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._note)
            self._process = os.getpid()

    def after_run(self, runner: Runner) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    def _note(self, *_) -> None:
        self._wanted = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getpid() != self._process:
            # A forked worker, such as one of an evaluator's pool, must end: the pool waits for it.
            os.kill(os.getpid(), signal.SIGTERM)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if get_world_size() > 1:
            if (runner.iter + 1) % self.agree_every:
                return
            wanted = torch.tensor(float(self._wanted))
            all_reduce(wanted, 'max')
            self._wanted = bool(wanted)
        if self._wanted:
            self._leave(runner, finished=False)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self._wanted and get_world_size() == 1:  # the shares of several processes differ in length
            self._leave(runner, finished=True)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self._wanted:
            raise Preempted('SIGTERM during the test; start again with --resume auto')

    def _leave(self, runner: Runner, finished: bool) -> None:
        hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
        saved = hook and hook.save_now(runner, finished)
        barrier()  # the first process to leave brings the others down
        where = f'the newest checkpoint is {saved.name}' if saved else 'nothing is saved yet'
        raise Preempted(
            f'SIGTERM: stopped at iteration {runner.iter + (not finished)}; {where}; start again with --resume auto'
        )
