"""Stems and downsampling of the channels-last hierarchical backbones, [B, 3, H, W] in, [B, H, W, C] out.

Their submodules are numbered as in the authors' checkpoints.
"""

from torch import nn

from mmbackbones.layers.permute import to_channels_first, to_channels_last


def patch_stem(dim: int) -> nn.Sequential:
    """4x4 patches and LayerNorm; sides that 4 does not divide are floored (VMamba v0, Efficient- and LocalVMamba)."""
    return nn.Sequential(nn.Conv2d(3, dim, 4, stride=4), to_channels_last(), nn.LayerNorm(dim))


def conv_stem(dim: int) -> nn.Sequential:
    """Two 3x3 convolutions with stride 2, each with LayerNorm, GELU between; sides are rounded up (VMamba)."""
    return nn.Sequential(
        nn.Conv2d(3, dim // 2, 3, stride=2, padding=1),
        to_channels_last(),
        nn.LayerNorm(dim // 2),
        to_channels_first(),
        nn.GELU(),
        nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),
        to_channels_last(),
        nn.LayerNorm(dim),
    )


def conv_downsample(dim: int, next_dim: int) -> nn.Sequential:
    """[B, H, W, dim] -> [B, ceil(H/2), ceil(W/2), next_dim] by a 3x3 convolution and LayerNorm (VMamba)."""
    return nn.Sequential(
        to_channels_first(),
        nn.Conv2d(dim, next_dim, 3, stride=2, padding=1),
        to_channels_last(),
        nn.LayerNorm(next_dim),
    )
