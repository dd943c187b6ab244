"""MILA (first called MLLA): the Mamba block with linear attention in place of its scan.

Paper: "Demystify Mamba in Vision: A Linear Attention Perspective", NeurIPS 2024, https://arxiv.org/abs/2405.16605
Authors' code and weights: https://github.com/LeapLabTHU/MLLA (MIT; its detection and segmentation folders Apache-2.0).
Written anew from the paper and from recorded activations of that code.

The image is zero-padded at the bottom and the right to a multiple of 4, and an odd map to even sides before each
downsampling, as in the authors' detectors and segmentors. Images padded to a multiple of 32 need neither.
"""

from types import SimpleNamespace

import torch.nn.functional as F
from torch import Tensor, nn

from mmbackbones.backbones.base import STRIDES, StagedBackbone
from mmbackbones.checkpoints.adapters.mila import convert_mila
from mmbackbones.errors import InputError
from mmbackbones.layers.linear_attention import RotaryLinearAttention
from mmbackbones.layers.mlla_frame import MLLABlock, MLLADownsample, MLLAStem, on_map
from mmbackbones.layers.windows import missing
from mmbackbones.registry import MODELS


class PaddedStem(MLLAStem):
    """The stem on an image zero-padded to whole patches, [B, 3, H, W] -> [B, ceil(H/4), ceil(W/4), dim]."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return super().forward(F.pad(x, (0, missing(width, STRIDES[0]), 0, missing(height, STRIDES[0]))))


class PaddedDownsample(MLLADownsample):
    """The downsampling of a map zero-padded to even sides, [B, H, W, dim] -> [B, ceil(H/2), ceil(W/2), next_dim]."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        return super().forward(F.pad(x, (0, 0, 0, missing(width, 2), 0, missing(height, 2))))


class MILAMixer(nn.Module):
    """``out_proj(attention(silu(conv(in_proj(x)))) * silu(act_proj(x)))``, no wider inside than outside.

    Args:
        dim (int): channels C of the map, a multiple of 4.
        num_heads (int): heads of the attention, which divide C.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.in_proj, self.act_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.dwc = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.attn = RotaryLinearAttention(dim, num_heads)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> map of the same shape."""
        y = self.attn(F.silu(on_map(self.dwc, self.in_proj(x))))
        return self.out_proj(y * F.silu(self.act_proj(x)))


@MODELS.register_module()
class MILA(StagedBackbone):
    """MILA for detection and segmentation.

    Keys of ``arch`` besides ``dims`` (multiples of 4) and ``depths``: ``num_heads`` (of the four stages) and
    ``mlp_ratio`` (4).
    """

    archs = {
        'tiny': dict(dims=64, depths=(2, 4, 8, 4), num_heads=(2, 4, 8, 16)),
        'small': dict(dims=64, depths=(3, 6, 21, 6), num_heads=(2, 4, 8, 16)),
        'base': dict(dims=96, depths=(3, 6, 21, 6), num_heads=(3, 6, 12, 24)),
    }
    arch_defaults = dict(num_heads=(2, 4, 8, 16), mlp_ratio=4.0)
    convert_state_dict = staticmethod(convert_mila)

    @classmethod
    def resolve_arch(cls, arch: str | dict | None) -> SimpleNamespace:
        options = super().resolve_arch(arch)
        dims, heads = options.dims, options.num_heads
        if any(dim % 4 for dim in dims):
            raise InputError(f'{cls.__name__}: arch dims={dims}, expected multiples of 4, for the rotary positions')
        if len(heads) != len(dims) or any(number < 1 or dim % number for number, dim in zip(heads, dims)):
            raise InputError(
                f'{cls.__name__}: arch num_heads={heads}, expected divisors of {", ".join(map(str, dims))}'
            )
        return options

    def make_stem(self, dim: int) -> nn.Module:
        return PaddedStem(dim)

    def make_block(self, stage: int, index: int, dim: int, drop_path: float) -> MLLABlock:
        return MLLABlock(dim, MILAMixer(dim, self.arch.num_heads[stage]), drop_path, self.arch.mlp_ratio)

    def make_downsample(self, dim: int, next_dim: int) -> nn.Module:
        return PaddedDownsample(dim, next_dim)
