"""Activation checkpointing that updates the running statistics of batch norms only once.

The second computation of a block must not update them again. For blocks that we call, a context marks the second
computation. timm's models checkpoint by themselves; there, hooks detect it.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def run_checkpointed(block: nn.Module, *args: object) -> Tensor | tuple[Tensor, ...]:
    """Run a block with activation checkpointing: the backward pass computes it again, so activations are not kept."""
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
    """Freeze the statistics of a network's batch norms during backward passes, if the network checkpoints by itself."""
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
