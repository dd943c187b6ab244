"""Checkpoints of plain data: tensors, numbers and texts, so that reading one needs only torch's code."""

from collections import OrderedDict

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

SCALARS = (bool, int, float, str, bytes, type(None))
LOG_KEYS = {'values', 'counts'}


def to_plain(value: object, place: str = '') -> tuple[object, list[str]]:
    """Copy nested containers, keeping only plain data. Tensors are shared.

    NumPy's numbers become Python's and its arrays tensors; a parameter becomes its tensor, an mmengine
    ``HistoryBuffer`` a dict of two tensors, ``values`` and ``counts``.

    Returns:
        tuple: the copy, and the dotted places of the objects left out.
    """
    if type(value) in SCALARS:
        return value, []
    if isinstance(value, Tensor):
        return value.detach(), []
    if isinstance(value, np.generic) and type(value.item()) in SCALARS:
        return value.item(), []
    if isinstance(value, np.ndarray) and value.dtype.kind in 'biuf':
        return torch.from_numpy(value.copy()), []
    if isinstance(value, HistoryBuffer):
        values, counts = value.data
        return dict(
            values=torch.from_numpy(values.astype(np.float64)), counts=torch.from_numpy(counts.astype(np.int64))
        ), []
    if isinstance(value, dict):
        return _plain_dict(value, place)
    if isinstance(value, list | tuple):
        copies, dropped = [], []
        for index, item in enumerate(value):
            copy, below = to_plain(item, f'{place}.{index}')
            copies.append(copy)
            dropped += below
        return (copies if isinstance(value, list) else tuple(copies)), dropped
    return None, [place or type(value).__name__]


def _plain_dict(value: dict, place: str) -> tuple[dict, list[str]]:
    result: dict = OrderedDict() if isinstance(value, OrderedDict) else {}
    dropped = []
    for key, item in value.items():
        there = f'{place}.{key}' if place else str(key)
        copy, below = to_plain(item, there)
        dropped += below
        if type(key) not in SCALARS:
            dropped.append(there)
        elif there not in below:
            result[key] = copy
    if isinstance(value, OrderedDict) and hasattr(value, '_metadata'):  # versions of the modules of a state dict
        result._metadata = _plain_dict(value._metadata, place)[0]  # type: ignore[attr-defined]
    return result, dropped


def restore_logs(log_scalars: dict) -> dict[str, HistoryBuffer]:
    """mmengine's smoothed logs from what :func:`to_plain` made of them; anything else is left out."""
    logs = {}
    for name, log in log_scalars.items():
        if isinstance(log, dict) and log.keys() == LOG_KEYS and all(isinstance(x, Tensor) for x in log.values()):
            values, counts = (log[key].cpu().double().flatten().numpy() for key in ('values', 'counts'))
            if len(values) == len(counts):
                logs[name] = HistoryBuffer(values, counts)
    return logs
