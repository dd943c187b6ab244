"""The random states of a process come back."""

import random

import numpy as np
import pytest
import torch

from mmbackbones.checkpoints.random_state import get_random_state, set_random_state
from mmbackbones.errors import InputError


def test_random_state_round_trip():
    def draw():
        return random.gauss(0, 1), np.random.randn(), torch.randn(1).item()

    draw()  # leaves a second Gaussian waiting in Python's and NumPy's generators
    state = get_random_state()
    first = [draw() for _ in range(3)]
    set_random_state(state)
    assert [draw() for _ in range(3)] == first
    with pytest.raises(InputError, match='random states of the checkpoint cannot be restored: KeyError'):
        set_random_state({'python': 1})
