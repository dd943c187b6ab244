"""The base classes of the families: what every backbone shares, four stages, one column of equal blocks."""

from mmbackbones.backbones.base.backbone import NUMERICS, Backbone, RunOptions
from mmbackbones.backbones.base.plain import MAMBA_OPTIONS, Block, MapBlock, PlainBackbone, PlainRunOptions
from mmbackbones.backbones.base.staged import STRIDES, StagedBackbone

__all__ = [
    'MAMBA_OPTIONS',
    'NUMERICS',
    'STRIDES',
    'Backbone',
    'Block',
    'MapBlock',
    'PlainBackbone',
    'PlainRunOptions',
    'RunOptions',
    'StagedBackbone',
]
