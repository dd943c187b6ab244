"""Which backend runs a scan: decided by device and dtype, overridden by name, logged once, never silent."""

import functools
import importlib
import logging
import os
from types import ModuleType
from typing import NamedTuple

import torch
from mmengine.logging import print_log

from mmbackbones.errors import InputError

BACKENDS = {
    'reference': 'reference',
    'chunked': 'chunked',
    'native': 'native',
    'triton': 'triton',
    'mamba_ssm': 'official',
}
ENVIRONMENT = 'MMBACKBONES_SCAN_BACKEND'


class BackendChoice(NamedTuple):
    """Name of a backend and why it was chosen, in one line."""

    name: str
    reason: str


def selective_scan_backend(tensor_or_device: torch.Tensor | torch.device | str, backend: str = 'auto') -> BackendChoice:
    """Tell which backend :func:`selective_scan` uses for a tensor or device, and why.

    Raises:
        InputError: ``backend`` (or ``MMBACKBONES_SCAN_BACKEND``, which stands in for ``'auto'``) is unknown or can't
            be used here, or a CUDA device has no fast backend.
    """
    if isinstance(tensor_or_device, torch.Tensor):
        return choose(tensor_or_device.device.type, tensor_or_device.dtype == torch.float64, backend)
    return choose(torch.device(tensor_or_device).type, False, backend)


def choose(device: str, float64: bool, backend: str) -> BackendChoice:
    source = 'backend'
    if backend == 'auto' and os.environ.get(ENVIRONMENT, 'auto') != 'auto':
        source, backend = ENVIRONMENT, os.environ[ENVIRONMENT]
    if backend != 'auto':
        if backend not in BACKENDS:
            raise InputError(f"{source} is {backend!r}, expected 'auto' or one of {', '.join(BACKENDS)}")
        problem = _problem(backend, device, float64)
        if problem:
            raise InputError(f'{source}={backend!r} cannot be used: {problem}')
        return BackendChoice(backend, f'asked for by {source}')

    if device == 'meta':
        return BackendChoice('reference', 'meta tensors are never computed')
    if device == 'cpu':
        problem = _problem('native', device, float64)
        if problem is None:
            return BackendChoice('native', f'CPU kernel for {get_backend("native").isa()}')
        return BackendChoice('chunked', f'native cannot be used: {problem}')
    problems = {name: _problem(name, device, float64) for name in ('triton', 'mamba_ssm')}
    for name, problem in problems.items():
        if problem is None:
            return BackendChoice(name, f'first usable kernel for {device}')
    raise InputError(
        f'no fast selective scan for {device} tensors ({"; ".join(problems.values())}); '
        "expected one of them, or the slow backend='chunked' by name"
    )


@functools.cache
def get_backend(name: str) -> ModuleType:
    return importlib.import_module(f'{__package__}.{BACKENDS[name]}')


@functools.cache
def log_once(choice: BackendChoice) -> None:
    print_log(f'selective scan: {choice.name} ({choice.reason})', 'current', logging.INFO)


def _problem(name: str, device: str, float64: bool) -> str | None:
    try:
        module = get_backend(name)
    except ImportError as error:
        return f'{name} cannot be imported ({error})'
    if device != 'meta' and module.DEVICES is not None and device not in module.DEVICES:
        return f'{name} serves {" and ".join(module.DEVICES)} tensors, not {device}'
    if float64 and not module.FLOAT64:
        return f'{name} has no float64'
    return module.available()
