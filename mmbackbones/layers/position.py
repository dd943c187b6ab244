"""Position tables on another grid."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbackbones.errors import InputError


def resize_position(
    table: Tensor,
    grid: tuple[int, int],
    new_grid: tuple[int, int],
    class_row: int | None = None,
    new_class_row: int | None = None,
) -> Tensor:
    """Resize a learned position table, in float32: bicubic, corners not aligned, as DeiT and Vim do.

    Args:
        table (Tensor): [1, L, C], one row per patch of ``grid`` in row-major order, and the class token's.
        grid (tuple[int, int]): rows and columns of patches that the table was learned on.
        new_grid (tuple[int, int]): the same of the result.
        class_row (int | None): which row is the class token's: 0 in DeiT, the middle in Vim. None: there is none.
        new_class_row (int | None): where that row goes in the result, unchanged. None: it is left out.

    Returns:
        Tensor: [1, L', C] in the dtype of ``table``; the very ``table`` if nothing changes.

    Raises:
        InputError: the table does not have as many rows as grid and class token need, or a class row is asked for
            that the table does not have.
    """
    height, width = grid
    rows = height * width + (class_row is not None)
    if table.shape[1] != rows:
        raise InputError(
            f'position table has {table.shape[1]} rows, expected {rows} for a {height}x{width} grid '
            f'with{"out" if class_row is None else ""} class token'
        )
    if class_row is None and new_class_row is not None:
        raise InputError(f'position table of {rows} rows has no row for the class token')
    if (tuple(grid), class_row) == (tuple(new_grid), new_class_row):
        return table

    patches = table if class_row is None else torch.cat((table[:, :class_row], table[:, class_row + 1 :]), dim=1)
    if tuple(grid) != tuple(new_grid):
        patches = patches.unflatten(1, grid).permute(0, 3, 1, 2)  # [1, h*w, C] -> [1, C, h, w]
        patches = F.interpolate(patches.float(), size=tuple(new_grid), mode='bicubic', align_corners=False)
        patches = patches.flatten(2).transpose(1, 2).to(table.dtype)  # [1, C, h, w] -> [1, h*w, C]
    if class_row is None or new_class_row is None:
        return patches
    token = table[:, class_row : class_row + 1]
    return torch.cat((patches[:, :new_class_row], token, patches[:, new_class_row:]), dim=1)
