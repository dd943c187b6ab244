"""One process among several that goes wrong within a training step, for configs with these in ``custom_imports``."""

import signal
import threading

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class HangingRank(Hook):
    """Process 1 never joins the others' second step."""

    priority = 'LOWEST'  # custom hooks come after the default ones of this priority, so the watchdog knows of the step

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if get_rank() == 1 and runner.iter == 1:
            threading.Event().wait()


@HOOKS.register_module()
class TerminatedRank(Hook):
    """Process 1 alone gets SIGTERM, in the second step."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if get_rank() == 1 and runner.iter == 1:
            signal.raise_signal(signal.SIGTERM)


@HOOKS.register_module()
class SpoiltRank(Hook):
    """An image of process 1 holds NaN in the second and in the fourth step."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if get_rank() == 1 and runner.iter in (1, 3):
            data_batch['inputs'][0] = torch.full(data_batch['inputs'][0].shape, torch.nan)
