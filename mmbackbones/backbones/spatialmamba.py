"""Spatial-Mamba: one scan per block, whose states are fused over the map before they are read.

Paper: "Spatial-Mamba: Effective Visual State Space Models via Structure-aware State Fusion", ICLR 2025,
https://arxiv.org/abs/2410.15091
Authors' code and weights: https://github.com/EdwardChasel/Spatial-Mamba (Apache-2.0). Written anew from the paper and
from recorded activations of that code; parameters have its names, except those of the block.

Stem, downsampling and block are those of MLLA. The authors' code folds the fusion into one 11x11 kernel at the first
forward in eval mode and keeps it, whatever is loaded or trained later. Here nothing is kept.
"""

from torch import Tensor, nn

from mmbackbones.backbones.base import StagedBackbone
from mmbackbones.checkpoints.adapters.spatialmamba import convert_spatialmamba
from mmbackbones.layers.mlla_frame import MLLABlock, MLLADownsample, MLLAStem
from mmbackbones.layers.ss2d import SS2D
from mmbackbones.layers.state_fusion import StateFusion
from mmbackbones.registry import MODELS


class StateFusedSSM(SS2D):
    """A gated selective scan in one direction, row by row, with one state per channel, fused over the map."""

    num_directions = 1

    def __init__(self, dim: int):
        super().__init__(dim, d_state=1, conv_bias=True, gate=True)
        self.state_fusion = StateFusion(self.out_norm.normalized_shape[0])

    def scan(self, x: Tensor) -> Tensor:
        """[B, D, H, W] -> [B, H*W, D]"""
        return self.scan_fused(x, self.state_fusion)


@MODELS.register_module()
class SpatialMamba(StagedBackbone):
    """Spatial-Mamba for detection and segmentation.

    ``arch`` has the keys ``dims`` and ``depths``. All arguments are those of :class:`Backbone`.
    """

    archs = {
        'tiny': dict(dims=64, depths=(2, 4, 8, 4)),
        'small': dict(dims=64, depths=(2, 4, 21, 5)),
        'base': dict(dims=96, depths=(2, 4, 21, 5)),
    }
    convert_state_dict = staticmethod(convert_spatialmamba)

    def make_stem(self, dim: int) -> nn.Module:
        return MLLAStem(dim)

    def make_block(self, stage: int, index: int, dim: int, drop_path: float) -> MLLABlock:
        return MLLABlock(dim, StateFusedSSM(dim), drop_path)

    def make_downsample(self, dim: int, next_dim: int) -> nn.Module:
        return MLLADownsample(dim, next_dim)
