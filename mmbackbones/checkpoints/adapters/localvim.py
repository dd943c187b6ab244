"""LocalVim: the authors' layout, found under ``state_dict`` in their files."""

import math

import torch
from torch import Tensor

from mmbackbones.checkpoints.adapters.position import add_square_grid
from mmbackbones.checkpoints.layout import rename

RENAMES = ((r'\.mixer\.A_log_(\d)$', r'.mixer.A_\1_log'), (r'\.mixer\.attn\.', '.mixer.channel_gate.'))


def convert_localvim(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys to ours. Our own keys stay as they are.

    The grid of the position table is added. The grid of the rotary tables replaces the tables, which we compute. The
    authors' tables are square. The ``head.*`` and ``norm_f.*`` keys of the classifier stay in: the backbone allows
    them as unexpected.

    Raises:
        InputError: the position table does not belong to a square grid.
    """
    converted = {}
    for key, value in rename(state_dict, RENAMES).items():
        if key == 'rope.freqs_cos':
            converted['rope_grid'] = torch.tensor(2 * [math.isqrt(len(value))])
        elif key != 'rope.freqs_sin':
            converted[key] = value
    add_square_grid(converted, 'LocalVim')
    return converted
