"""What a run needs beside mmengine: loading, initialization, parameter groups, metrics, adaptation to the device."""

from mmbackbones.engine import loading  # registers the schemes
from mmbackbones.engine.checkpointing import CheckpointHook
from mmbackbones.engine.metrics import IoUMetric
from mmbackbones.engine.numerics import NumericsHook
from mmbackbones.engine.optim import OptimWrapperConstructor
from mmbackbones.engine.preemption import PreemptionHook
from mmbackbones.engine.pretrained import Pretrained
from mmbackbones.engine.runner import Runner
from mmbackbones.engine.watchdog import WatchdogHook

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
