"""RAVLT: rank-augmented linear attention (RALA) at high resolution, softmax attention at low.

Paper: "Breaking the Low-Rank Dilemma of Linear Attention", CVPR 2025, https://arxiv.org/abs/2411.07635
Authors' code and weights: https://github.com/qhfan/RALA, without a licence. That code is not used here: this file is
written from the paper, from facts about the network and from recorded activations.

In all variants the blocks of stages 0 and 1 attend linearly and those of stages 2 and 3 by softmax. Most of the depth
is therefore quadratic in the number of tokens.
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models.vision_transformer import LayerScale
from torch import Tensor, nn

from mmbackbones.backbones.base import StagedBackbone
from mmbackbones.checkpoints.adapters.ravlt import convert_ravlt
from mmbackbones.errors import InputError
from mmbackbones.layers.depthwise import ConvMlp, DepthwiseConv
from mmbackbones.layers.permute import to_channels_first, to_channels_last
from mmbackbones.layers.rotation import Rotation, rotate, rotation_of
from mmbackbones.registry import MODELS

LINEAR_STAGES = 2
EPS = 1e-6  # of norms and of the normaliser


def stem(dim: int) -> nn.Sequential:
    """[B, 3, H, W] -> [B, ceil(H/4), ceil(W/4), dim]"""
    half, layers = dim // 2, []
    for channels, out, stride in ((3, half, 2), (half, half, 1), (half, half, 1), (half, dim, 2)):
        layers += [nn.Conv2d(channels, out, 3, stride, 1), nn.BatchNorm2d(out), nn.GELU()]
    return nn.Sequential(*layers[:-1], to_channels_last())


def downsample(dim: int, next_dim: int) -> nn.Sequential:
    """[B, H, W, dim] -> [B, ceil(H/2), ceil(W/2), next_dim]"""
    conv = nn.Conv2d(dim, next_dim, 3, 2, 1)
    return nn.Sequential(to_channels_first(), conv, nn.BatchNorm2d(next_dim), to_channels_last())


def rank_augmented_attention(q: Tensor, k: Tensor, v: Tensor, rotation: Rotation) -> Tensor:
    """Linear attention whose tokens weigh differently in the sum of keys and values (the paper's equations 3 to 5).

    A token weighs N times the softmax, over all tokens, of its key's product with the mean query. The rotation acts on
    what is multiplied and not on the normaliser.

    Args:
        q, k, v (Tensor): [B, heads, N, d].
        rotation (Rotation): position code of d channels.

    Returns:
        Tensor: [B, heads, N, d], float32: the sums run over all tokens, in float32 whatever autocast says.
    """
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k, v))
        tokens, dim = q.shape[-2:]
        q, k = F.elu(q) + 1, F.elu(k) + 1
        mean_query = q.mean(dim=-2, keepdim=True).transpose(-2, -1)
        weights = (k @ (mean_query * dim**-0.5)).softmax(dim=-2)  # [B, heads, N, 1]
        k = k * (weights * tokens)
        total = q @ k.mean(dim=-2, keepdim=True).transpose(-2, -1)  # [B, heads, N, 1]
        summed = rotate(k, rotation).transpose(-2, -1) @ (v / tokens)  # [B, heads, d, d]
        return rotate(q, rotation) @ summed / (total + EPS)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, rotation: Rotation) -> Tensor:
    """Attention with rotated queries and keys, [B, heads, N, d]; the result has the dtype of v."""
    q, k = (rotate(x, rotation).to(v.dtype) for x in (q, k))
    return F.scaled_dot_product_attention(q, k, v)


class GatedAttention(nn.Module):
    """``proj((attention + lepe(v)) * o)`` on maps [B, H, W, C]; the gate ``o`` is linear, ``lepe`` depthwise."""

    def __init__(self, dim: int, num_heads: int, linear: bool):
        super().__init__()
        self.head_dim = dim // num_heads
        self.attend = rank_augmented_attention if linear else softmax_attention
        self.qkvo = nn.Linear(dim, 4 * dim)
        self.lepe = DepthwiseConv(dim, 5)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        grid = x.shape[1:3]
        q, k, v, o = self.qkvo(x).chunk(4, dim=-1)
        heads = (t.flatten(1, 2).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for t in (q, k, v))
        y = self.attend(*heads, rotation)  # [B, heads, H*W, d]
        y = y.transpose(1, 2).flatten(2).unflatten(1, grid)  # -> [B, H, W, C]
        return self.proj((y + self.lepe(v)) * o)


class RAVLTBlock(nn.Module):
    """``x + pos(x)``, then ``x + attention(LN(x))`` and ``x + FFN(LN(x))``, each with layer scale, on [B, H, W, C]."""

    def __init__(self, dim: int, attn: nn.Module, ffn_ratio: float, layer_scale: float, drop_path: float):
        super().__init__()
        self.pos = DepthwiseConv(dim, 3)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=EPS), nn.LayerNorm(dim, eps=EPS)
        self.attn, self.ffn = attn, ConvMlp(dim, int(ffn_ratio * dim), act_after_conv=False)
        self.ls1, self.ls2 = LayerScale(dim, layer_scale), LayerScale(dim, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        x = x + self.pos(x)
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), rotation)))
        return x + self.drop_path(self.ls2(self.ffn(self.norm2(x))))


@MODELS.register_module()
class RAVLT(StagedBackbone):
    """RAVLT for detection and segmentation.

    Keys of ``arch`` besides ``dims`` and ``depths``: ``num_heads`` and ``layer_scale`` (initial value), one per stage,
    and ``ffn_ratio`` (3.5). All arguments are those of :class:`Backbone`.
    """

    archs = {
        'tiny': dict(dims=(64, 128, 256, 512), depths=(2, 2, 6, 2), num_heads=(1, 2, 4, 8)),
        'small': dict(dims=(64, 128, 320, 512), depths=(3, 5, 9, 3), num_heads=(1, 2, 5, 8)),
        'base': dict(
            dims=(96, 192, 384, 512), depths=(4, 6, 12, 6), num_heads=(1, 2, 6, 8), layer_scale=(1, 1, 1e-6, 1e-6)
        ),
        'large': dict(dims=(96, 192, 448, 640), depths=(4, 7, 19, 8), num_heads=(1, 2, 7, 10), layer_scale=(1e-6,) * 4),
    }
    arch_required = ('dims', 'depths', 'num_heads')
    arch_defaults = dict(ffn_ratio=3.5, layer_scale=(1, 1, 1, 1))
    norm_eps = EPS
    allowed_unexpected: tuple[str, ...] = ('proj.', 'norm.', 'head.')
    convert_state_dict = staticmethod(convert_ravlt)

    @classmethod
    def resolve_arch(cls, arch: str | dict | None) -> SimpleNamespace:
        options = super().resolve_arch(arch)
        dims, heads = options.dims, options.num_heads
        if len(heads) != len(dims) or any(n < 1 or dim % (4 * n) for n, dim in zip(heads, dims)):
            raise InputError(
                f'{cls.__name__}: arch num_heads={heads}, expected numbers that divide dims={dims} into multiples of 4'
            )
        if len(options.layer_scale) != len(dims):
            raise InputError(f'{cls.__name__}: arch layer_scale={options.layer_scale}, expected {len(dims)} numbers')
        return options

    def make_stem(self, dim: int) -> nn.Module:
        return stem(dim)

    def make_block(self, stage: int, index: int, dim: int, drop_path: float) -> RAVLTBlock:
        attn = GatedAttention(dim, self.arch.num_heads[stage], linear=stage < LINEAR_STAGES)
        return RAVLTBlock(dim, attn, self.arch.ffn_ratio, self.arch.layer_scale[stage], drop_path)

    def make_downsample(self, dim: int, next_dim: int) -> nn.Module:
        return downsample(dim, next_dim)

    def run_blocks(self, stage: int, x: Tensor) -> Tensor:
        head_dim = x.shape[3] // self.arch.num_heads[stage]
        rotation = rotation_of(x.shape[1:3], head_dim, x.device, include_slowest=True)
        for block in self.layers[stage].blocks:
            x = self.checkpointed(block, x, rotation)
        return x
