"""What both implementations of the directional scan take."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

# The weights of K directions: stacked, or one tensor after the other.
Weights: TypeAlias = Tensor | Sequence[Tensor]


class DirectionalArguments(NamedTuple):
    """Inputs of K directions over the same tokens, checked, in the order of the operator's schema.

    See :func:`directional_scan`.
    """

    x: Tensor
    """(B, L, D)"""
    proj_weight: Weights
    """(K, R + 2 N, D)"""
    dt_weight: Weights
    """(K, D, R)"""
    dt_bias: Weights
    """(K, D)"""
    A: Weights
    """(K, D, N)"""
    D: Weights | None
    """(K, D)"""
    z: Tensor | None
    """(B, L, D)"""
    conv_weight: Weights | None
    """(K, D, W)"""
    conv_bias: Weights | None
    """(K, D)"""
    orders: Sequence
    """:class:`ScanOrder` or None for each direction; in the operator only its ``order``, (S,) int64."""
    reverse: Sequence[bool]

    @property
    def tensors(self) -> tuple[Weights | None, ...]:
        """Those that have a gradient."""
        return self[:9]

    def stacked(self) -> 'DirectionalArguments':
        """With all weights stacked, as the operator takes them."""
        return self._replace(
            **{
                name: torch.stack(tuple(value))
                for name, value in zip(self._fields, self.tensors)
                if value is not None and not isinstance(value, Tensor)
            }
        )
