"""MambaVision: convolutions at high resolution, then windows with state-space mixers first and attention after them.

Paper: "MambaVision: A Hybrid Mamba-Transformer Vision Backbone", CVPR 2025, https://arxiv.org/abs/2407.08083
Authors' code and weights: https://github.com/NVlabs/MambaVision. That code is under the NVIDIA Source Code License-NC
(research and evaluation only) and is not used here. This file is written from the paper, from the names and shapes of
the released weights and from recorded activations. The weights are CC-BY-NC-SA-4.0: converted or fine-tuned weights
stay non-commercial and share-alike.

The bias of ``dt`` is added twice, as in the training of the weights. ``step_bias='exact'`` adds it once.
"""

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from timm.models.vision_transformer import Attention, LayerScale
from torch import Tensor, nn
from typing_extensions import Unpack

from mmbackbones.backbones.base import NUMERICS, RunOptions, StagedBackbone
from mmbackbones.checkpoints.adapters.mambavision import convert_mambavision
from mmbackbones.errors import InputError
from mmbackbones.layers.mamba import DtProjection, initial_A_log, project, project_channels_first
from mmbackbones.layers.permute import to_channels_first, to_channels_last
from mmbackbones.layers.windows import into_windows, out_of_windows
from mmbackbones.ops.selective_scan import selective_scan
from mmbackbones.registry import MODELS

CONV_STAGES = 2


def bn_stem(width: int, dim: int) -> nn.Sequential:
    """[B, 3, H, W] -> [B, ceil(H/4), ceil(W/4), dim]"""
    layers = []
    for channels, out in ((3, width), (width, dim)):
        layers += [nn.Conv2d(channels, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out, eps=1e-4), nn.ReLU()]
    return nn.Sequential(*layers, to_channels_last())


def plain_downsample(dim: int, next_dim: int) -> nn.Sequential:
    """[B, H, W, dim] -> [B, ceil(H/2), ceil(W/2), next_dim] by a convolution alone."""
    return nn.Sequential(to_channels_first(), nn.Conv2d(dim, next_dim, 3, 2, 1, bias=False), to_channels_last())


class ConvBlock(nn.Module):
    """Residual block of two 3x3 convolutions with batch norm on maps [B, H, W, C]."""

    def __init__(self, dim: int, drop_path: float):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(dim, dim, 3, padding=1), nn.BatchNorm2d(dim)
        self.conv2, self.norm2 = nn.Conv2d(dim, dim, 3, padding=1), nn.BatchNorm2d(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(0, 3, 1, 2)  # [B, H, W, C] -> [B, C, H, W]
        y = F.gelu(self.norm1(self.conv1(y)), approximate='tanh')
        y = self.norm2(self.conv2(y))
        return x + self.drop_path(y.permute(0, 2, 3, 1))  # [B, C, H, W] -> [B, H, W, C]


class MambaVisionMixer(nn.Module):
    """Half of the channels scanned, half only convolved, joined and projected (the paper's section 3.2).

    The convolutions see one token on both sides and have no bias.

    Args:
        dim (int): channels C of the tokens.
        d_state (int): state size N of each scanned channel.
        step_bias (str): ``'exact'`` adds the bias of ``dt`` once, ``'official'`` twice.
    """

    def __init__(self, dim: int, *, d_state: int, step_bias: str):
        super().__init__()
        d_inner = dim // 2
        self.d_state, self.dt_rank = d_state, math.ceil(dim / 16)
        self.bias_count = 1 if step_bias == 'exact' else 2
        self.in_proj = nn.Linear(dim, 2 * d_inner, bias=False)
        self.conv1d_x = nn.Conv1d(d_inner, d_inner, 3, padding=1, groups=d_inner, bias=False)
        self.conv1d_z = nn.Conv1d(d_inner, d_inner, 3, padding=1, groups=d_inner, bias=False)
        self.x_proj = nn.Linear(d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = DtProjection(self.dt_rank, d_inner)
        self.A_log = initial_A_log(d_inner, d_state)
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = nn.Linear(2 * d_inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, L, C] -> [B, L, C]."""
        x, z = project_channels_first(self.in_proj, x).chunk(2, dim=1)  # [B, L, C] -> 2 x [B, D, L]
        x, z = F.silu(self.conv1d_x(x)), F.silu(self.conv1d_z(z))
        dt, B, C = project(self.x_proj, x).split([self.dt_rank, self.d_state, self.d_state], dim=1)
        y = selective_scan(
            x,
            project(self.dt_proj, dt),
            -torch.exp(self.A_log.float()),
            B,
            C,
            self.D,
            delta_bias=self.bias_count * self.dt_proj.bias,
            delta_softplus=True,
        )
        return self.out_proj(torch.cat((y, z), dim=1).transpose(1, 2))  # [B, 2D, L] -> [B, L, C]


class TokenBlock(nn.Module):
    """``x + mixer(LN(x))``, then ``x + MLP(LN(x))``, each branch with layer scale if asked for, on [B, L, C]."""

    def __init__(self, dim: int, mixer: nn.Module, drop_path: float, layer_scale: float | None):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mixer, self.mlp = mixer, Mlp(dim, 4 * dim)
        self.ls1, self.ls2 = (LayerScale(dim, layer_scale) if layer_scale else nn.Identity() for _ in range(2))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.ls1(self.mixer(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


@MODELS.register_module()
class MambaVision(StagedBackbone):
    """MambaVision for detection and segmentation.

    Stages 0 and 1 are convolutions. In stages 2 and 3 the first half of the blocks scans and the second half attends,
    all within windows. Maps are padded with zeros at the bottom and the right to whole windows, once per stage. Scans
    and attention include these tokens, as in the authors' code.

    Keys of ``arch`` besides ``dims`` and ``depths``: ``num_heads`` (of stages 2 and 3: 8 and 16), ``stem_width`` (64),
    ``layer_scale`` (initial value, None: none) and ``d_state`` (8).

    Args:
        window_size (tuple[int, int]): side of the windows in stages 2 and 3, in tokens. It changes the output, but not
            the shapes of the weights: 14 and 7 in pretraining at 224 px; 64 and 32 in the authors' segmentors; 112 and
            56 in their detectors, wider than most maps.
        step_bias (str): ``'official'``, as in the training of the released weights, or ``'exact'``; see
            :class:`MambaVisionMixer`.

    The other arguments are those of :class:`Backbone`.
    """

    archs = {
        'tiny': dict(dims=80, depths=(1, 3, 8, 4), num_heads=(8, 16), stem_width=32),
        'tiny2': dict(dims=80, depths=(1, 3, 11, 4), num_heads=(8, 16), stem_width=32),
        'small': dict(dims=96, depths=(3, 3, 7, 5), num_heads=(8, 16), stem_width=64),
        'base': dict(dims=128, depths=(3, 3, 10, 5), num_heads=(8, 16), stem_width=64, layer_scale=1e-5),
        'large': dict(dims=196, depths=(3, 3, 10, 5), num_heads=(16, 32), stem_width=64, layer_scale=1e-5),
    }
    arch_defaults = dict(num_heads=(8, 16), stem_width=64, layer_scale=None, d_state=8)
    allowed_unexpected: tuple[str, ...] = ('norm.', 'head.')
    convert_state_dict = staticmethod(convert_mambavision)

    def __init__(
        self,
        *,
        window_size: tuple[int, int] = (14, 7),
        step_bias: str = 'official',
        **run: Unpack[RunOptions],
    ):
        self.check_choice(NUMERICS, step_bias=step_bias)
        if len(window_size) != 2 or min(window_size) < 1:
            raise InputError(
                f'{self.family}: window_size={window_size}, expected two positive numbers, one per stage with windows'
            )
        self.window_size, self.step_bias = tuple(window_size), step_bias
        super().__init__(**run)

    @classmethod
    def resolve_arch(cls, arch: str | dict | None) -> SimpleNamespace:
        options = super().resolve_arch(arch)
        dims, num_heads = options.dims[CONV_STAGES:], options.num_heads
        if len(num_heads) != 2 or any(dim % heads for dim, heads in zip(dims, num_heads)):
            raise InputError(
                f'{cls.__name__}: arch num_heads={num_heads}, expected divisors of the widths of the last '
                f'two stages, {dims[0]} and {dims[1]}'
            )
        return options

    def make_stem(self, dim: int) -> nn.Module:
        return bn_stem(self.arch.stem_width, dim)

    def make_block(self, stage: int, index: int, dim: int, drop_path: float) -> ConvBlock | TokenBlock:
        if stage < CONV_STAGES:
            return ConvBlock(dim, drop_path)
        if index < (self.depths[stage] + 1) // 2:
            mixer = MambaVisionMixer(dim, d_state=self.arch.d_state, step_bias=self.step_bias)
        else:
            mixer = Attention(dim, self.arch.num_heads[stage - CONV_STAGES], qkv_bias=True)
        return TokenBlock(dim, mixer, drop_path, self.arch.layer_scale)

    def make_downsample(self, dim: int, next_dim: int) -> nn.Module:
        return plain_downsample(dim, next_dim)

    def run_blocks(self, stage: int, x: Tensor) -> Tensor:
        if stage < CONV_STAGES:
            return super().run_blocks(stage, x)
        shape, sides = x.shape, 2 * (self.window_size[stage - CONV_STAGES],)
        return out_of_windows(super().run_blocks(stage, into_windows(x, sides)), sides, shape)
