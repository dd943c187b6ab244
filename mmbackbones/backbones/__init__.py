"""The backbones, one family per file. Importing this package registers them."""

from mmbackbones.backbones.mambaout import MambaOut

__all__ = ['MambaOut']
