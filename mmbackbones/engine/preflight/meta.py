"""Run modules on tensors without content, and say where they fail."""

import itertools
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import get_world_size
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

# What torch says of tensors that do not fit. All else may be a limit of the meta device.
MISFIT = re.compile(
    r'channel|dimension|size of tensor|invalid for input of size|output size|greater than actual input|'
    r'cannot be multiplied|mat1 and mat2|index out of range|shape|sizes? .*match|expected input|normalized',
    re.IGNORECASE,
)
ON_DEVICE = re.compile(r'cuda|device|\bmeta\b', re.IGNORECASE)

# Layers, the attribute that says how many channels they take, and the axis of the channels.
WIDTHS = ((_ConvNd, 'in_channels', 1), (_BatchNorm, 'num_features', 1), (nn.Linear, 'in_features', -1))


class Misfit(Exception):
    """A module does not take the maps that it gets; ``where`` is its path, relative to the watched module."""

    def __init__(self, where: str, reason: str):
        super().__init__(reason)
        self.where = where


class Untried(Exception):
    """A module cannot be run on the meta device."""


class MetaRun:
    """Runs modules in eval mode on the meta device: no memory, no random numbers, no statistics.

    Args:
        model (nn.Module): the model whose batch norms are watched. It may be on any device.

    Attributes:
        starved (list[str]): paths in ``model`` of the batch norms that, in train mode, would get one value per channel.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.starved: list[str] = []
        self._names = {module: name for name, module in model.named_modules()}
        self._learning: set[nn.Module] = set()
        self._stack: list[nn.Module] = []

    @contextmanager
    def watch(self) -> Iterator['MetaRun']:
        """Within it the model is in eval mode and its modules are watched."""
        modes = {module: module.training for module in self._names}
        hooks = [module.register_forward_pre_hook(self._enter) for module in self._names]
        hooks += [module.register_forward_hook(self._leave) for module in self._names]
        self.model.train()  # which a frozen batch norm does not follow
        self._learning = {module for module in self._names if isinstance(module, _BatchNorm) and module.training}
        self.model.eval()
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()
            for module, mode in modes.items():
                module.training = mode

    def __call__(self, module: nn.Module, *args: object) -> Any:
        """The module's output for tensors on the meta device.

        Raises:
            Misfit: the tensors do not fit the module.
            Untried: it fails for another reason, which may be the meta device.
        """
        self._stack.clear()
        # Every tensor once for each module that has it. A layer with two names would stay empty with tie_weights=True.
        state = {
            f'{prefix}.{name}' if prefix else name: torch.empty_like(tensor, device='meta')
            for prefix, part in module.named_modules()
            for name, tensor in itertools.chain(part.named_parameters(recurse=False), part.named_buffers(recurse=False))
        }
        try:
            with torch.no_grad():
                return torch.func.functional_call(module, state, args, tie_weights=False)
        except Misfit:
            raise
        except (AssertionError, IndexError, RuntimeError, ValueError) as error:
            reason = ' '.join(str(error).split())
            fits = isinstance(error, NotImplementedError) or not MISFIT.search(reason)
            if (fits and not isinstance(error, AssertionError)) or ON_DEVICE.search(reason):
                raise Untried(reason) from error
            raise self._misfit(reason or traceback.extract_tb(error.__traceback__)[-1].line or '') from error
        except Exception as error:  # a foreign forward with other arguments, say
            raise Untried(f'{type(error).__name__}: {" ".join(str(error).split())}') from error

    def _misfit(self, reason: str) -> Misfit:
        return Misfit(self._names[self._stack[-1]] if self._stack else '', reason)

    def _enter(self, module: nn.Module, args: tuple) -> None:
        self._stack.append(module)
        if not args or not isinstance(args[0], Tensor):
            return
        # On the meta device torch does not compare all of them.
        for kinds, attribute, axis in WIDTHS:
            if isinstance(module, kinds) and args[0].dim() > 1 and args[0].shape[axis] != getattr(module, attribute):
                raise self._misfit(f'expected {getattr(module, attribute)} channels, got {args[0].shape[axis]}')
        if module in self._learning and args[0].shape[1]:
            processes = get_world_size() if 'Sync' in type(module).__name__ else 1
            if args[0].numel() // args[0].shape[1] * processes == 1:
                self.starved.append(self._names[module])

    def _leave(self, module: nn.Module, args: tuple, output: object) -> None:
        self._stack.pop()
