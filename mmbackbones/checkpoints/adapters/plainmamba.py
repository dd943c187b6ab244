"""PlainMamba: the authors' layout, an OpenMMLab classifier's or segmentor's backbone."""

import re

from torch import Tensor

from mmbackbones.checkpoints.adapters.position import add_square_grid
from mmbackbones.checkpoints.layout import rename


def convert_plainmamba(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys to ours. Our own keys stay as they are.

    The norms of the returned maps become ``outnorm{block}``. The classifier's final norm ``ln1`` becomes that of the
    last block in the file. The grid of the position table is added; the authors' tables are square. The ``head.*`` keys
    of a classifier stay in: the backbone allows them as unexpected.

    Raises:
        InputError: the position table does not belong to a square grid.
    """
    blocks = [int(found[1]) for key in state_dict if (found := re.match(r'layers\.(\d+)\.', key))]
    rules = (
        (r'^(layers\.\d+)\.mamba\.', r'\1.mixer.'),
        (r'^norm_layer(\d+)\.', r'outnorm\1.'),
        (r'^ln1\.', f'outnorm{max(blocks, default=0)}.'),
    )
    converted = rename(state_dict, rules)
    add_square_grid(converted, 'PlainMamba')
    return converted
