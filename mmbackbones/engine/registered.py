"""What the registries find in this room. Importing this module registers it."""

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
]
