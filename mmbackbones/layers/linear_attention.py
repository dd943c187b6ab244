"""Linear attention with ELU + 1 in place of the softmax, and the rotary positions and convolution that MILA gives it.

Sources: "Transformers are RNNs", https://arxiv.org/abs/2006.16236, section 3.2; "Demystify Mamba in Vision: A Linear
Attention Perspective", NeurIPS 2024, https://arxiv.org/abs/2405.16605, section 5. Keys and values are summed first, so
that the cost is linear in the tokens.
"""

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed, build_rotary_pos_embed
from torch import Tensor, nn

from mmbackbones.layers.mlla_frame import on_map
from mmbackbones.layers.ss2d import in_float32

NORMALIZER_EPS = 1e-6


def linear_attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int, *, rotary: bool) -> Tensor:
    """Attention of every token to all, ``q' (k'^T v)`` over its weights' sum, in float32 whatever autocast says.

    Args:
        q (Tensor), k (Tensor): [B, H, W, C], before their ELU + 1.
        v (Tensor): [B, H, W, C].
        num_heads (int): heads, which divide the channels.
        rotary (bool): rotate queries and keys by their place, see :func:`rotate`. The normalizer is that of the
            unrotated ones, which are positive.

    Returns:
        Tensor: [B, H, W, C] in float32, or float64 if the inputs are.
    """
    grid = q.shape[1:3]

    def split(x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, heads, L, C / heads]"""
        return x.flatten(1, 2).unflatten(-1, (num_heads, -1)).transpose(1, 2)

    with torch.autocast(q.device.type, enabled=False):
        q, k, v = (in_float32(x) for x in (q, k, v))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        normalizer = split(q) @ split(k).mean(2)[..., None] + NORMALIZER_EPS  # [B, heads, L, 1]
        if rotary:
            q, k = rotate(q), rotate(k)
        # Means in place of sums cancel with the normalizer, and stay small on large maps.
        summary = split(k).transpose(2, 3) @ split(v) / (grid[0] * grid[1])  # [B, heads, C / heads, C / heads]
        y = split(q) @ summary / normalizer
        return y.transpose(1, 2).flatten(2).unflatten(1, grid)  # [B, heads, L, C / heads] -> [B, H, W, C]


def rotate(x: Tensor) -> Tensor:
    """Turn neighbouring channels as pairs, those of the first half by the row, those of the second by the column.

    Positions are indices, so that a map of any size is possible; each half has the frequencies ``10000**(-4 k / C)``
    for k below C / 4.

    Args:
        x (Tensor): [B, H, W, C], C a multiple of 4.
    """
    turned = []
    for part, side, axis in zip(x.chunk(2, dim=-1), x.shape[1:3], (1, 0)):
        turn = build_rotary_pos_embed([side], dim=x.shape[-1], in_pixels=False, device=x.device, dtype=x.dtype)
        sin, cos = (table.unsqueeze(axis) for table in turn)  # [H, 1, C / 2] or [1, W, C / 2]
        turned.append(apply_rot_embed(part, sin, cos))
    return torch.cat(turned, dim=-1)


class RotaryLinearAttention(nn.Module):
    """MILA's attention: rotated queries and keys, the tokens themselves as values, and a convolution of them (LePE).

    Args:
        dim (int): channels C, a multiple of 4.
        num_heads (int): heads, which divide C.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qk = nn.Linear(dim, 2 * dim)
        self.lepe = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> map of the same shape, float32 under autocast."""
        q, k = self.qk(x).chunk(2, dim=-1)
        return linear_attention(q, k, x, self.num_heads, rotary=True) + on_map(self.lepe, x)


class LinearAttention(nn.Module):
    """Linear attention alone, the tokens as its values: no position code, no convolution.

    Args:
        dim (int): channels C of the tokens.
        head_width (int): channels of a head, a divisor of C.
    """

    def __init__(self, dim: int, head_width: int):
        super().__init__()
        self.head_width = head_width
        self.qk = nn.Linear(dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> map of the same shape."""
        q, k = self.qk(x).chunk(2, dim=-1)
        return linear_attention(q, k, x, x.shape[-1] // self.head_width, rotary=False)
