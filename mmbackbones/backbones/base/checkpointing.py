"""Activation checkpointing that leaves the running statistics of batch norms alone.

The second computation of a block must not move them once more. Where we call a block ourselves a context tells the two
computations apart; within timm's models, which checkpoint by themselves, hooks do.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute(block: nn.Module, *args: object) -> Tensor | tuple[Tensor, ...]:
    """Run a block, and once more in the backward pass instead of keeping what it computed on the way."""
    return checkpoint(block, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), _still_statistics(block)))


@contextmanager
def _still_statistics(block: nn.Module) -> Iterator[None]:
    momenta = {module: module.momentum for module in block.modules() if isinstance(module, _BatchNorm)}
    for module in momenta:
        module.momentum = 0.0
    try:
        yield
    finally:
        for module, momentum in momenta.items():
            module.momentum = momentum


def keep_statistics_still(net: nn.Module) -> None:
    """Make the batch norms of a network that checkpoints by itself keep their statistics within a backward pass."""
    momenta = {}

    def before(norm: _BatchNorm, _: object) -> None:
        if torch._C._current_graph_task_id() != -1:  # within a backward pass
            momenta[norm], norm.momentum = norm.momentum, 0.0

    def after(norm: _BatchNorm, *_: object) -> None:
        if norm in momenta:
            norm.momentum = momenta.pop(norm)

    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(before)
            module.register_forward_hook(after)
