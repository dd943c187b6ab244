"""Visual Mamba and its rivals as backbones for dense prediction on OpenMMLab.

The names below are imported when they are first used. Importing the package registers nothing by itself: a config with
``type='mmbackbones.VMamba'`` finds the class.
"""

import importlib
import sys
from typing import TYPE_CHECKING

from mmbackbones import needs

if TYPE_CHECKING:
    from mmbackbones.ops import directional_scan as directional_scan
    from mmbackbones.ops import selective_scan as selective_scan
    from mmbackbones.zoo.create import create_backbone as create_backbone
    from mmbackbones.zoo.info import BackboneInfo as BackboneInfo
    from mmbackbones.zoo.info import backbone_info as backbone_info
    from mmbackbones.zoo.info import list_backbones as list_backbones

__version__ = '0.1.0'

HOMES = {
    'BackboneInfo': 'mmbackbones.zoo.info',
    'backbone_info': 'mmbackbones.zoo.info',
    'create_backbone': 'mmbackbones.zoo.create',
    'directional_scan': 'mmbackbones.ops',
    'list_backbones': 'mmbackbones.zoo.info',
    'selective_scan': 'mmbackbones.ops',
}
__all__ = [*HOMES, '__version__']

needs.require(('torch',))

# timm and mmseg import torchvision on their own, which needs a step before where it does not match torch.
if 'torch' in sys.modules or 'torchvision' in sys.modules:
    from mmbackbones import torchvision_ops

    torchvision_ops.declare_if_missing()
else:
    from mmbackbones import torchvision_hook  # noqa: F401


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(importlib.import_module(HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
