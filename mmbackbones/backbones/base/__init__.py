"""Base classes of the families: of every backbone, of hierarchical ones and of plain ones."""

from mmbackbones.backbones.base.backbone import NUMERICS, OUT_TYPES, Backbone, RunOptions
from mmbackbones.backbones.base.plain import MAMBA_OPTIONS, Block, MapBlock, PlainBackbone, PlainRunOptions
from mmbackbones.backbones.base.staged import STRIDES, StagedBackbone

__all__ = [
    'MAMBA_OPTIONS',
    'NUMERICS',
    'OUT_TYPES',
    'STRIDES',
    'Backbone',
    'Block',
    'MapBlock',
    'PlainBackbone',
    'PlainRunOptions',
    'RunOptions',
    'StagedBackbone',
]
