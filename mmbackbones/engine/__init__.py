"""What a run needs beside mmengine: loading, initialization, parameter groups, metrics, adaptation to the device."""

from mmbackbones.checkpoints import load as loading  # registers the schemes
from mmbackbones.engine.hooks.checkpoint import CheckpointHook
from mmbackbones.engine.hooks.numerics import NumericsHook
from mmbackbones.engine.hooks.preemption import PreemptionHook
from mmbackbones.engine.hooks.watchdog import WatchdogHook
from mmbackbones.engine.optim import OptimWrapperConstructor
from mmbackbones.engine.pretrained import Pretrained
from mmbackbones.engine.runner import Runner
from mmbackbones.evaluation.metrics import IoUMetric

__all__ = [
    'CheckpointHook',
    'IoUMetric',
    'NumericsHook',
    'OptimWrapperConstructor',
    'PreemptionHook',
    'Pretrained',
    'Runner',
    'WatchdogHook',
    'loading',
]
