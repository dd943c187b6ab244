"""VSSD: Mamba-2's state-space duality without its order of tokens, and attention in the last stage.

Paper: "VSSD: Vision Mamba with Non-Causal State Space Duality", https://arxiv.org/abs/2407.18559
Authors' code and weights: https://github.com/YuHengsss/VSSD, which states no licence for either. That code is not used
here: this file is written from the paper, from the names and shapes of the released weights and from recorded
activations.

The sum over the tokens is not divided by their number, as in the training of the released weights. Its share beside
``D * x`` therefore grows with the image.
"""

from types import SimpleNamespace

import torch.nn.functional as F
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from mmbackbones.backbones.base import StagedBackbone
from mmbackbones.checkpoints.adapters.vssd import convert_vssd
from mmbackbones.errors import InputError
from mmbackbones.layers.mlla_frame import MLLABlock, MLLADownsample, MLLAStem, on_map
from mmbackbones.layers.noncausal_ssd import NonCausalSSD
from mmbackbones.registry import MODELS

SSD_STAGES = 3
EXPAND = 2


class SSDMixer(NonCausalSSD):
    """``out_proj(LN(ssd(x)) * z)``; x, B and C are convolved and pass a SiLU, the gate z does not.

    Args:
        dim (int): channels C of the map; the mixer has D = 2 C.
        num_heads (int): heads, which divide D.
        d_state (int): state size N, the width of B and C.
    """

    def __init__(self, dim: int, num_heads: int, d_state: int):
        super().__init__()
        d_inner = EXPAND * dim
        mixed = d_inner + 2 * d_state
        self.parts = d_inner, mixed, num_heads
        self.mixed_parts = d_inner, d_state, d_state
        self.in_proj = nn.Linear(dim, sum(self.parts), bias=False)
        self.conv2d = nn.Conv2d(mixed, mixed, 3, padding=1, groups=mixed)
        self.add_heads(num_heads)
        self.norm = nn.LayerNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> map of the same shape."""
        z, mixed, dt = self.in_proj(x).split(self.parts, dim=-1)
        x, B, C = F.silu(on_map(self.conv2d, mixed)).split(self.mixed_parts, dim=-1)
        return self.out_proj(self.norm(self.mix(x, B, C, dt)) * z)


class MapAttention(Attention):
    """timm's attention, on a map [B, H, W, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1, 2)).view_as(x)


@MODELS.register_module()
class VSSD(StagedBackbone):
    """VSSD for detection and segmentation: the first three stages mix by the non-causal duality, the last by attention.

    Keys of ``arch`` besides ``dims`` and ``depths``: ``num_heads`` (of the four stages), ``d_state`` (64) and
    ``mlp_ratio`` (4).
    """

    archs = {
        'micro': dict(dims=48, depths=(2, 2, 8, 4), num_heads=(2, 4, 8, 16), d_state=48),
        'tiny': dict(dims=64, depths=(2, 4, 8, 4), num_heads=(2, 4, 8, 16)),
        'small': dict(dims=64, depths=(3, 4, 21, 5), num_heads=(2, 4, 8, 16)),
        'base': dict(dims=96, depths=(3, 4, 21, 5), num_heads=(3, 6, 12, 24)),
    }
    arch_defaults = dict(num_heads=(2, 4, 8, 16), d_state=64, mlp_ratio=4.0)
    convert_state_dict = staticmethod(convert_vssd)

    @classmethod
    def resolve_arch(cls, arch: str | dict | None) -> SimpleNamespace:
        options = super().resolve_arch(arch)
        # The attention of the last stage has no wider projections.
        widths = [*(EXPAND * dim for dim in options.dims[:SSD_STAGES]), *options.dims[SSD_STAGES:]]
        heads = options.num_heads
        if len(heads) != len(widths) or any(number < 1 or width % number for number, width in zip(heads, widths)):
            raise InputError(
                f'{cls.__name__}: arch num_heads={heads}, expected divisors of {", ".join(map(str, widths))}'
            )
        if options.d_state < 1:
            raise InputError(f'{cls.__name__}: arch d_state={options.d_state}, expected 1 or more')
        return options

    def make_stem(self, dim: int) -> nn.Module:
        return MLLAStem(dim)

    def make_block(self, stage: int, index: int, dim: int, drop_path: float) -> MLLABlock:
        num_heads = self.arch.num_heads[stage]
        mixer = SSDMixer(dim, num_heads, self.arch.d_state) if stage < SSD_STAGES else MapAttention(dim, num_heads)
        return MLLABlock(dim, mixer, drop_path, self.arch.mlp_ratio)

    def make_downsample(self, dim: int, next_dim: int) -> nn.Module:
        return MLLADownsample(dim, next_dim)
