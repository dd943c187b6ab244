"""Maps cut into windows that do not overlap, and put together again.

timm's functions of this purpose infer a side. An export for any image size cannot solve for it, so here each is named.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def missing(side: int, multiple: int) -> int:
    """Pixels from ``side`` up to the next multiple.

    It is ``-side % multiple``, written so that an exported graph simplifies the padded side.
    """
    return (side + multiple - 1) // multiple * multiple - side


def window_grid(shape: Sequence[int], sides: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of windows that cover a map of ``shape`` [B, H, W, C]."""
    rows, columns = ((side + window - 1) // window for side, window in zip(shape[1:3], sides))
    return rows, columns


def into_windows(x: Tensor, sides: tuple[int, int]) -> Tensor:
    """Cut maps into windows of L tokens, those at the lower and right edge filled with zeros.

    Args:
        x (Tensor): [B, H, W, C].
        sides (tuple[int, int]): rows and columns of a window, L in all.

    Returns:
        Tensor: [M, L, C]; image by image, and in it window by window in raster order.
    """
    rows, columns = window_grid(x.shape, sides)
    bottom, right = (missing(side, window) for side, window in zip(x.shape[1:3], sides))
    x = F.pad(x, (0, 0, 0, right, 0, bottom))
    x = x.unflatten(2, (columns, sides[1])).unflatten(1, (rows, sides[0]))  # -> [B, rows, h, columns, w, C]
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def out_of_windows(x: Tensor, sides: tuple[int, int], shape: Sequence[int]) -> Tensor:
    """Put maps of ``shape`` [B, H, W, any] together again: [M, L, C] -> [B, H, W, C]."""
    batch, height, width = shape[:3]
    x = x.unflatten(1, sides).unflatten(0, (batch, *window_grid(shape, sides)))  # -> [B, rows, columns, h, w, C]
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]
