"""Rotary position codes of maps: the first half of the channels turns with the row, the second with the column."""

import torch
from timm.layers.pos_embed_sincos import apply_rot_embed, build_rotary_pos_embed
from torch import Tensor

Rotation = tuple[Tensor, Tensor]  # sines and cosines, each [h*w, C]


def rotation_of(grid: tuple[int, int], dim: int, device: torch.device, *, include_slowest: bool = False) -> Rotation:
    """Sines and cosines of the code for one map, float32.

    Args:
        grid (tuple[int, int]): rows and columns of tokens.
        dim (int): channels C, a multiple of 4. Neighbouring channels form a pair, which turns by one of C/4 frequencies
            per row or column.
        device (torch.device): where they are made.
        include_slowest (bool): the frequencies fall from 1 to 1/10000 with both ends. False: the last one is left out,
            as in language models.
    """
    count = dim // 4
    last = 1.0 if include_slowest else 1 - 1 / count
    bands = 10000.0 ** -torch.linspace(0, last, count, device=device)
    return build_rotary_pos_embed(list(grid), bands=bands, in_pixels=False, device=device)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn tokens [..., h*w, C] in row-major order; the result is float32 (float64 for float64)."""
    return apply_rot_embed(x.to(torch.promote_types(x.dtype, torch.float32)), *rotation)
