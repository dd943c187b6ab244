"""Depthwise convolutions of channels-last maps, alone and within an MLP."""

import torch.nn.functional as F
from torch import Tensor, nn


class DepthwiseConv(nn.Conv2d):
    """Depthwise convolution of an odd kernel size with stride 1, on maps [B, H, W, C]."""

    def __init__(self, dim: int, kernel_size: int):
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x.permute(0, 3, 1, 2))  # [B, H, W, C] -> [B, C, H, W]
        return y.permute(0, 2, 3, 1)  # [B, C, H, W] -> [B, H, W, C]


class ConvMlp(nn.Module):
    """``fc2(h + dwconv(h))`` with ``h = gelu(fc1(x))``, on maps [B, H, W, C].

    Args:
        dim (int): channels C.
        hidden (int): channels of ``h``.
        act_after_conv (bool): the sum goes through a GELU of its own.
    """

    def __init__(self, dim: int, hidden: int, *, act_after_conv: bool):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = DepthwiseConv(hidden, 3)
        self.fc2 = nn.Linear(hidden, dim)
        self.act_after_conv = act_after_conv

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.fc1(x))
        x = x + self.dwconv(x)
        return self.fc2(F.gelu(x) if self.act_after_conv else x)
