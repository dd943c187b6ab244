"""Build networks of shapes without values."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# What initialization writes into a parameter. On the meta device it changes nothing, and takes seconds a network.
_WRITES = frozenset(
    ('add_', 'clamp_', 'copy_', 'erfinv_', 'fill_', 'mul_', 'normal_', 'uniform_', 'zero_')
    + ('constant_', 'kaiming_normal_', 'kaiming_uniform_', 'ones_', 'xavier_uniform_', 'zeros_')
)


class _NoWrites(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, '__name__', '') in _WRITES:
            written = args[0] if args else kwargs['tensor']  # torch.nn.init passes it by name
            if written.is_meta:
                return written
        return func(*args, **kwargs)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Within it, modules are built on the meta device and are not initialized: no memory, no random numbers."""
    with torch.device('meta'), _NoWrites():
        yield
