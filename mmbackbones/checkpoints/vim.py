"""Vim: the authors' layout, found under ``model`` in their files."""

import math

import torch
from torch import Tensor

from mmbackbones.errors import InputError


def convert_vim(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring the authors' weights to our keys; our own pass through.

    Names are equal. Tables of the rotary position code, which we compute, are left out, and the grid of the position
    table is added: the authors' tables are square. The ``head.*`` and ``norm_f.*`` keys of the classifier stay in:
    the backbone names them as unused. The class token goes when the weights enter a model without one.

    Raises:
        InputError: the position table belongs to no square grid.
    """
    state_dict = {key: value for key, value in state_dict.items() if not key.startswith('rope.')}
    if 'pos_embed' in state_dict and 'pos_grid' not in state_dict:
        rows = state_dict['pos_embed'].shape[1] - ('cls_token' in state_dict)
        side = math.isqrt(rows)
        if side * side != rows:
            raise InputError(f'Vim checkpoint: pos_embed has {rows} rows for patches, expected a square number')
        state_dict['pos_grid'] = torch.tensor([side, side])
    return state_dict
