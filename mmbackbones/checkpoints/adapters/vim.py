"""Vim: the authors' layout, found under ``model`` in their files."""

from torch import Tensor

from mmbackbones.checkpoints.adapters.position import add_square_grid


def convert_vim(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' keys to ours. Our own keys stay as they are.

    Names are equal. The tables of the rotary position code are left out, because we compute them. The grid of the
    position table is added; the authors' tables are square. The ``head.*`` and ``norm_f.*`` keys of the classifier stay
    in: the backbone allows them as unexpected. A model without a class token drops the class token on loading.

    Raises:
        InputError: the position table does not belong to a square grid.
    """
    state_dict = {key: value for key, value in state_dict.items() if not key.startswith('rope.')}
    add_square_grid(state_dict, 'Vim')
    return state_dict
