"""The random states of a process: Python's, NumPy's, torch's and the current CUDA device's, as plain numbers."""

import random
from typing import cast

import numpy as np
import torch

from mmbackbones.errors import InputError


def get_random_state() -> dict:
    """Take the states; see :func:`set_random_state`."""
    _, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = cast(tuple, np.random.get_state())
    state = dict(
        python=torch.tensor(words),
        python_gauss=gauss,
        numpy=torch.from_numpy(keys.astype(np.int64)),
        numpy_rest=[int(position), int(has_gauss), float(cached)],
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict) -> None:
    """Restore the states. The state of CUDA is ignored if this machine or the checkpoint has none.

    Raises:
        InputError: the argument is not such a state.
    """
    try:
        position, has_gauss, cached = state['numpy_rest']
        random.setstate((3, tuple(state['python'].tolist()), state['python_gauss']))
        np.random.set_state(('MT19937', state['numpy'].cpu().numpy().astype(np.uint32), position, has_gauss, cached))
        torch.set_rng_state(state['torch'].cpu())
        if 'cuda' in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state['cuda'].cpu())
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f'the random states of the checkpoint cannot be restored: {type(error).__name__}: {error}'
        ) from error
