"""Registries in the scope ``mmbackbones``, children of mmengine's roots.

mmdet, mmseg and mmpretrain all resolve ``type='mmbackbones.MambaOut'``: mmengine imports this module for a scoped
type that it does not know, and the modules in ``locations`` on the first look-up.
"""

from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import METRICS as ROOT_METRICS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ROOT_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import RUNNERS as ROOT_RUNNERS
from mmengine.registry import WEIGHT_INITIALIZERS as ROOT_WEIGHT_INITIALIZERS
from mmengine.registry import Registry

SCOPE = 'mmbackbones'


def _child(root: Registry, *locations: str) -> Registry:
    return Registry(root.name, parent=root, scope=SCOPE, locations=[f'mmbackbones.{name}' for name in locations])


MODELS = _child(ROOT_MODELS, 'backbones', 'necks')
DATASETS = _child(ROOT_DATASETS, 'datasets')
METRICS = _child(ROOT_METRICS, 'evaluation.metrics', 'evaluation.boundary')
HOOKS = _child(ROOT_HOOKS, 'engine.registered')
RUNNERS = _child(ROOT_RUNNERS, 'engine.registered')
WEIGHT_INITIALIZERS = _child(ROOT_WEIGHT_INITIALIZERS, 'engine.registered')
OPTIM_WRAPPER_CONSTRUCTORS = _child(ROOT_OPTIM_WRAPPER_CONSTRUCTORS, 'engine.registered')
