"""What a golden case of a staged backbone records, beside what our model gives."""

import torch
from torch import Tensor

from tests.backbones.staged_cases import TOLERANCE, Case


def recorded(case: Case) -> set[str]:
    """Names of what a case records."""
    return {key for key in case.tensors if not key.startswith('state_dict') and key != 'x'}


def assert_close(actual: dict[str, Tensor], case: Case, tolerance: dict[str, float] = TOLERANCE) -> None:
    for key, value in actual.items():
        torch.testing.assert_close(value, case.tensors[key], msg=lambda m, k=key: f'{k}: {m}', **tolerance)
