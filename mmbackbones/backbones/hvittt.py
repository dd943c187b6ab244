"""H-ViT3: a hierarchical backbone with test-time training layers, linear in the number of tokens.

Paper: "ViT^3: Unlocking Test-Time Training in Vision", CVPR 2026, https://arxiv.org/abs/2512.01643
Authors' code and weights: https://github.com/LeapLabTHU/ViTTT (MIT, as its root says; nothing is said of the weights).
Written anew from facts about the network and from recorded activations; parameters have its names.

The authors' dense copy uses another scale in the very first forward pass after it is built. Here every pass is as its
later ones, which is the classifier's. A layer's sums run over all tokens of a map, the padding of a batch included.
"""

from collections import OrderedDict
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from mmbackbones.backbones.base import StagedBackbone
from mmbackbones.checkpoints.adapters.hvittt import convert_hvittt
from mmbackbones.errors import InputError
from mmbackbones.layers.depthwise import ConvMlp, DepthwiseConv
from mmbackbones.layers.permute import to_channels_first, to_channels_last
from mmbackbones.layers.rotation import Rotation, rotate, rotation_of
from mmbackbones.layers.ttt import KERNEL, learn_depthwise, learn_gated
from mmbackbones.layers.windows import missing
from mmbackbones.registry import MODELS


class PadToMultiple(nn.Module):
    """Zeros at the bottom and the right of [B, C, H, W], up to a multiple of ``side``."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return F.pad(x, (0, missing(width, self.side), 0, missing(height, self.side)))

    def extra_repr(self) -> str:
        return str(self.side)


def conv(dim: int, out: int, kernel: int, stride: int = 1, *, bias: bool, groups: int = 1, norm: bool, act: bool):
    """A convolution, its batch norm and ReLU, those of them that there are."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts['conv'] = nn.Conv2d(dim, out, kernel, stride, kernel // 2, groups=groups, bias=bias)
    if norm:
        parts['norm'] = nn.BatchNorm2d(out)
    if act:
        parts['act'] = nn.ReLU()
    return nn.Sequential(parts)


def stem(dim: int) -> nn.Sequential:
    """[B, 3, H, W] -> [B, ceil(H/4), ceil(W/4), dim]"""
    half, wide, common = dim // 2, 4 * dim, dict(bias=False, norm=True)
    convs = nn.Sequential(
        conv(3, half, 3, 2, act=True, **common),
        conv(half, half, 3, act=True, **common),
        conv(half, half, 3, act=True, **common),
        conv(half, wide, 3, 2, act=True, **common),
        conv(wide, dim, 1, act=False, **common),
    )
    return nn.Sequential(OrderedDict(pad=PadToMultiple(4), conv=convs, last=to_channels_last()))


def downsample(dim: int, next_dim: int) -> nn.Sequential:
    """[B, H, W, dim] -> [B, ceil(H/2), ceil(W/2), next_dim]"""
    wide = 4 * next_dim
    convs = nn.Sequential(
        conv(dim, wide, 1, bias=True, norm=False, act=True),
        conv(wide, wide, 3, 2, bias=True, groups=wide, norm=False, act=True),
        conv(wide, next_dim, 1, bias=True, norm=True, act=False),
    )
    parts = OrderedDict(first=to_channels_first(), pad=PadToMultiple(2), conv=convs, last=to_channels_last())
    return nn.Sequential(parts)


class TestTimeTraining(nn.Module):
    """A gated model per head, and a depthwise 3x3 convolution of as many channels as a head has; both learn per image.

    Args:
        dim (int): channels C of the tokens.
        num_heads (int): heads of the gated branch.
    """

    __test__ = False  # pytest: not a collection of tests

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.head_dim = dim // num_heads
        self.widths = 3 * [dim] + 3 * [self.head_dim]
        self.qkv = nn.Linear(dim, sum(self.widths))
        self.w1 = nn.Parameter(torch.empty(1, num_heads, self.head_dim, self.head_dim))
        self.w2 = nn.Parameter(torch.empty(1, num_heads, self.head_dim, self.head_dim))
        self.w3 = nn.Parameter(torch.empty(self.head_dim, 1, KERNEL, KERNEL))
        for weight in (self.w1, self.w2, self.w3):
            nn.init.trunc_normal_(weight, std=0.02)
        self.proj = nn.Linear(dim + self.head_dim, dim)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Map [B, H, W, C] -> map of the same shape. Queries and keys of the gated branch are turned over all C."""
        grid = x.shape[1:3]
        q, k, v, *small = self.qkv(x).split(self.widths, dim=-1)
        q, k, v = (t.flatten(1, 2) for t in (q, k, v))  # [B, H, W, C] -> [B, H*W, C]
        q, k = rotate(q, rotation), rotate(k, rotation)
        heads = (t.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for t in (q, k, v))  # -> [B, heads, H*W, d]
        gated = learn_gated(*heads, self.w1, self.w2).transpose(1, 2).flatten(2).unflatten(1, grid)
        maps = (t.permute(0, 3, 1, 2) for t in small)  # [B, H, W, d] -> [B, d, H, W]
        local = learn_depthwise(*maps, self.w3).permute(0, 2, 3, 1)
        return self.proj(torch.cat((gated, local), dim=-1))


class HViTTTBlock(nn.Module):
    """``x + cpe(x)``, then ``x + TTT(LN(x))``, then ``x + MLP(LN(x))``, on maps [B, H, W, C]."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float):
        super().__init__()
        self.cpe = DepthwiseConv(dim, 3)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = TestTimeTraining(dim, num_heads)
        self.mlp = ConvMlp(dim, int(mlp_ratio * dim), act_after_conv=True)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        x = x + self.cpe(x)
        x = x + self.drop_path(self.attn(self.norm1(x), rotation))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@MODELS.register_module()
class HViTTT(StagedBackbone):
    """H-ViT3 for detection and segmentation.

    The image is padded with zeros to a multiple of 4 px and each map of odd sides, before the downsampling, by one row
    or column.

    Keys of ``arch`` besides ``dims`` and ``depths``: ``num_heads`` (one per stage) and ``mlp_ratio`` (4). All arguments
    are those of :class:`Backbone`.
    """

    archs = {
        'tiny': dict(dims=(64, 128, 320, 512), depths=(1, 3, 9, 4), num_heads=(2, 4, 10, 16)),
        'small': dict(dims=(64, 128, 320, 512), depths=(2, 6, 18, 8), num_heads=(2, 4, 10, 16)),
        'base': dict(dims=(96, 192, 448, 640), depths=(2, 6, 18, 8), num_heads=(3, 6, 14, 20)),
    }
    arch_required = ('dims', 'depths', 'num_heads')
    arch_defaults = dict(mlp_ratio=4.0)
    allowed_unexpected: tuple[str, ...] = ('norm.', 'head.')
    convert_state_dict = staticmethod(convert_hvittt)

    @classmethod
    def resolve_arch(cls, arch: str | dict | None) -> SimpleNamespace:
        options = super().resolve_arch(arch)
        dims, heads = options.dims, options.num_heads
        if len(heads) != len(dims) or any(n < 1 or dim % n for n, dim in zip(heads, dims)):
            raise InputError(f'{cls.__name__}: arch num_heads={heads}, expected a divisor of each of dims={dims}')
        if any(dim % 4 for dim in dims):
            raise InputError(f'{cls.__name__}: arch dims={dims}, expected multiples of 4, as the rotation needs them')
        return options

    def make_stem(self, dim: int) -> nn.Module:
        return stem(dim)

    def make_block(self, stage: int, index: int, dim: int, drop_path: float) -> HViTTTBlock:
        return HViTTTBlock(dim, self.arch.num_heads[stage], self.arch.mlp_ratio, drop_path)

    def make_downsample(self, dim: int, next_dim: int) -> nn.Module:
        return downsample(dim, next_dim)

    def run_blocks(self, stage: int, x: Tensor) -> Tensor:
        rotation = rotation_of(x.shape[1:3], x.shape[3], x.device)
        for block in self.layers[stage].blocks:
            x = self.checkpointed(block, x, rotation)
        return x
