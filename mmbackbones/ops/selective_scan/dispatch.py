"""Which backend runs a scan: decided by device and dtype, overridden by name, logged once, never silent."""

import contextlib
import functools
import importlib
import logging
import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
from mmengine.logging import print_log

from mmbackbones.choices import BACKENDS, canonical_name
from mmbackbones.errors import InputError
from mmbackbones.ops.selective_scan.backend import Backend

ENVIRONMENT = 'MMBACKBONES_SCAN_BACKEND'
DIRECTIONAL_ENVIRONMENT = 'MMBACKBONES_DIRECTIONAL_SCAN'

_used: dict[str, str] = {}


class BackendChoice(NamedTuple):
    """Name of a backend and why it was chosen, in one line."""

    name: str
    reason: str


@contextlib.contextmanager
def use_scans(*, backend: str = 'auto', directional: str = 'auto') -> Iterator[None]:
    """Choose the backend of all scans with ``backend='auto'`` within the context.

    Args:
        backend: backend of :func:`selective_scan`. It replaces ``MMBACKBONES_SCAN_BACKEND``.
        directional: implementation of :func:`directional_scan`. It replaces ``MMBACKBONES_DIRECTIONAL_SCAN``.
    """
    before = dict(_used)
    given = {ENVIRONMENT: backend, DIRECTIONAL_ENVIRONMENT: directional}
    _used.update({name: value for name, value in given.items() if value != 'auto'})
    try:
        yield
    finally:
        _used.clear()
        _used.update(before)


def asked_for(environment: str) -> str:
    """What :func:`use_scans`, else an environment variable says; else ``'auto'``."""
    return _used.get(environment) or os.environ.get(environment, 'auto')


def selective_scan_backend(tensor_or_device: torch.Tensor | torch.device | str, backend: str = 'auto') -> BackendChoice:
    """Say which backend :func:`selective_scan` uses for a tensor or device, and why.

    Raises:
        InputError: ``backend``, or ``MMBACKBONES_SCAN_BACKEND`` in place of ``'auto'``, is unknown or cannot be used
            here; or a CUDA device has no fast backend.
    """
    if isinstance(tensor_or_device, torch.Tensor):
        return choose(tensor_or_device.device.type, tensor_or_device.dtype == torch.float64, backend)
    return choose(torch.device(tensor_or_device).type, False, backend)


def choose(device: str, float64: bool, backend: str) -> BackendChoice:
    source = 'backend'
    if backend == 'auto' and asked_for(ENVIRONMENT) != 'auto':
        source, backend = ENVIRONMENT, asked_for(ENVIRONMENT)
    if backend != 'auto':
        backend = canonical_name(backend)
        if backend not in BACKENDS:
            raise InputError(f"{source} is {backend!r}, expected 'auto' or one of {', '.join(BACKENDS)}")
        problem = _problem(backend, device, float64)
        if problem:
            raise InputError(f'{source}={backend!r} cannot be used: {problem}')
        return BackendChoice(backend, f'asked for by {source}')

    if device == 'meta':
        return BackendChoice('naive', 'meta tensors are never computed')
    if device == 'cpu':
        problem = _problem('cpu', device, float64)
        if problem is None:
            return BackendChoice('cpu', f'C++ for {importlib.import_module(f"{__package__}.cpu").isa()}')
        return BackendChoice('chunk', f'cpu cannot be used: {problem}')
    problems = []
    for name in ('triton', 'mamba_ssm'):  # a package is imported only if no kernel before it can be used
        problem = _problem(name, device, float64)
        if problem is None:
            return BackendChoice(name, f'first usable kernel for {device}')
        problems.append(problem)
    raise InputError(
        f'no fast selective scan for {device} tensors ({"; ".join(problems)}); '
        "expected one of them, or the slow backend='chunk' by name"
    )


def chosen(device: str, float64: bool, backend: str) -> str:
    """The name that :func:`choose` gives, logged once; what was asked before is known, since a scan asks every time."""
    choice = _chosen(device, float64, backend, asked_for(ENVIRONMENT) if backend == 'auto' else '')
    log_once(choice)
    return choice.name


@functools.cache
def _chosen(device: str, float64: bool, backend: str, asked: str) -> BackendChoice:
    return choose(device, float64, backend)


@functools.cache
def get_backend(name: str) -> Backend:
    return importlib.import_module(f'{__package__}.{name}')


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
