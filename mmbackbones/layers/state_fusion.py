"""Fusion of a scan's states over the map by dilated depthwise convolutions.

Source: "Spatial-Mamba: Effective Visual State Space Models via Structure-aware State Fusion", ICLR 2025,
https://arxiv.org/abs/2410.15091. Parameters have the names of the authors' checkpoints.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DILATIONS = {'kernel_3': 1, 'kernel_3_1': 3, 'kernel_3_2': 5}  # pixels between the taps of each 3x3 kernel


class StateFusion(nn.Module):
    """Weighted sum of three depthwise 3x3 convolutions without bias, dilated by 1, 3 and 5.

    The border is replicated, also on maps smaller than the padding. Kernels and weights ``alpha`` start at one.

    Args:
        dim (int): channels of the map.
    """

    def __init__(self, dim: int):
        super().__init__()
        for name in DILATIONS:
            self.register_parameter(name, nn.Parameter(torch.ones(dim, 1, 3, 3)))
        self.alpha = nn.Parameter(torch.ones(len(DILATIONS)))

    def forward(self, states: Tensor) -> Tensor:
        """Map [B, C, H, W] -> map of the same shape, in the dtype of the map whatever autocast says."""
        fused = 0
        with torch.autocast(states.device.type, enabled=False):
            for weight, (name, dilation) in zip(self.alpha, DILATIONS.items()):
                kernel = (weight * getattr(self, name)).to(states.dtype)
                padded = F.pad(states, (dilation,) * 4, mode='replicate')
                fused = fused + F.conv2d(padded, kernel, dilation=dilation, groups=len(kernel))
        return fused
