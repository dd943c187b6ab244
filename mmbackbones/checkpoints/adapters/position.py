"""The grid of the position tables of plain families, which published files do not state."""

import math

import torch
from torch import Tensor

from mmbackbones.errors import InputError


def add_square_grid(state_dict: dict[str, Tensor], family: str) -> None:
    """Add, in place, that the position table ``pos_embed`` has a square grid, unless the file states a grid.

    Raises:
        InputError: the number of the table's rows, without the class token's, is not a square number.
    """
    if 'pos_embed' not in state_dict or 'pos_grid' in state_dict:
        return
    rows = state_dict['pos_embed'].shape[1] - ('cls_token' in state_dict)
    side = math.isqrt(rows)
    if side * side != rows:
        raise InputError(f'{family} checkpoint: pos_embed has {rows} rows for patches, expected a square number')
    state_dict['pos_grid'] = torch.tensor([side, side])
