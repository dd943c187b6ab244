"""Axis order as a module, for stacks that mix convolutions and norms over channels."""

from torch import Tensor, nn


class Permute(nn.Module):
    """``x.permute(*dims)``."""

    def __init__(self, *dims: int):
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(*self.dims)

    def extra_repr(self) -> str:
        return ', '.join(map(str, self.dims))


def to_channels_last() -> Permute:
    """[B, C, H, W] -> [B, H, W, C]"""
    return Permute(0, 2, 3, 1)


def to_channels_first() -> Permute:
    """[B, H, W, C] -> [B, C, H, W]"""
    return Permute(0, 3, 1, 2)
