"""Stem, downsampling and block of MLLA, which later families keep while they replace its token mixer.

Source: "Demystify Mamba in Vision: A Linear Attention Perspective", NeurIPS 2024, https://arxiv.org/abs/2405.16605.
Maps are channels-last, [B, H, W, C]. Sides are rounded up. Convolutions and batch norms have the names of the authors'
checkpoints and keep PyTorch's initialization.
"""

from collections import OrderedDict

from timm.layers import DropPath, Mlp
from torch import Tensor, nn


def conv_norm(
    dim: int,
    out: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    norm: bool = True,
    act: bool = True,
) -> nn.Sequential:
    """Convolution ``conv`` on [B, C, H, W], then batch norm ``norm`` and ReLU where asked for."""
    conv = nn.Conv2d(dim, out, kernel, stride, kernel // 2, groups=groups, bias=bias)
    layers: list[tuple[str, nn.Module]] = [('conv', conv)]
    if norm:
        layers.append(('norm', nn.BatchNorm2d(out)))
    if act:
        layers.append(('act', nn.ReLU()))
    return nn.Sequential(OrderedDict(layers))


class MLLAStem(nn.Module):
    """[B, 3, H, W] -> [B, ceil(H/4), ceil(W/4), dim], by 3x3 convolutions with one residual unit between them."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv1 = conv_norm(3, dim // 2, 3, stride=2)
        self.conv2 = nn.Sequential(conv_norm(dim // 2, dim // 2, 3), conv_norm(dim // 2, dim // 2, 3, act=False))
        self.conv3 = nn.Sequential(conv_norm(dim // 2, 4 * dim, 3, stride=2), conv_norm(4 * dim, dim, 1, act=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return _channels_last(self.conv3(x + self.conv2(x)))


class MLLADownsample(nn.Module):
    """[B, H, W, dim] -> [B, ceil(H/2), ceil(W/2), next_dim], four times as wide inside, every convolution with bias."""

    def __init__(self, dim: int, next_dim: int):
        super().__init__()
        inner = 4 * next_dim
        self.conv = nn.Sequential(
            conv_norm(dim, inner, 1, bias=True, norm=False),
            conv_norm(inner, inner, 3, stride=2, groups=inner, bias=True, norm=False),
            conv_norm(inner, next_dim, 1, bias=True, act=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return _channels_last(self.conv(x.permute(0, 3, 1, 2)))


class MLLABlock(nn.Module):
    """Position convolution, ``x + mixer(LN(x))``, position convolution, ``x + MLP(LN(x))`` on maps [B, H, W, C].

    A position convolution is ``x + dwconv3x3(x)`` with zero padding. Drop path acts on the mixer and on the MLP.

    Args:
        dim (int): channels of the map.
        mixer (nn.Module): map [B, H, W, C] -> map of the same shape.
        drop_path (float): rate of this block.
        mlp_ratio (float): hidden width of the MLP over ``dim``.
    """

    def __init__(self, dim: int, mixer: nn.Module, drop_path: float, mlp_ratio: float = 4.0):
        super().__init__()
        self.cpe1, self.cpe2 = (nn.Conv2d(dim, dim, 3, padding=1, groups=dim) for _ in range(2))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mixer, self.mlp = mixer, Mlp(dim, int(mlp_ratio * dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + on_map(self.cpe1, x)
        x = x + self.drop_path(self.mixer(self.norm1(x)))
        x = x + on_map(self.cpe2, x)
        return x + self.drop_path(self.mlp(self.norm2(x)))


def on_map(conv: nn.Module, x: Tensor) -> Tensor:
    """A module of channels-first maps on a channels-last one: [B, H, W, C] -> [B, H, W, C]."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _channels_last(x: Tensor) -> Tensor:
    """[B, C, H, W] -> contiguous [B, H, W, C], so that the residual stream of the blocks has its channels together."""
    return x.permute(0, 2, 3, 1).contiguous()
