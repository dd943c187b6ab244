"""Vim: the authors' layout, found under ``model`` in their files."""

from torch import Tensor

from mmbackbones.checkpoints.adapters.position import add_square_grid


def convert_vim(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring the authors' weights to our keys; our own pass through.

    Names are equal. Tables of the rotary position code, which we compute, are left out, and the grid of the position
    table is added: the authors' tables are square. The ``head.*`` and ``norm_f.*`` keys of the classifier stay in:
    the backbone allows them as unexpected. The class token goes when the weights enter a model without one.

    Raises:
        InputError: the position table belongs to no square grid.
    """
    state_dict = {key: value for key, value in state_dict.items() if not key.startswith('rope.')}
    add_square_grid(state_dict, 'Vim')
    return state_dict
