"""Read a file of tensors without running code that it names.

A file is either safetensors or is read by torch's weights-only unpickler. There is no other way. Beside the tensors,
published checkpoints have objects of the authors' tools: an argparse.Namespace, a yacs CfgNode, logs of mmengine. The
unpickler gets an inert class for each of these names, so the named code is neither imported nor called. The inert
objects are then left out.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals, get_unsafe_globals_in_checkpoint

from mmbackbones.checkpoints.atomic import require_whole
from mmbackbones.errors import InputError

MapLocation: TypeAlias = str | torch.device | dict | Callable | None
TRUST = (
    '; if you trust its author, tools/trust_checkpoint.py runs that code once, on your word, and keeps the plain '
    'tensors'
)


class Checkpoint(NamedTuple):
    """Content of a file.

    Attributes:
        content (dict): nested dicts, lists, tuples and sets of tensors, numbers and texts, as saved. A dictionary of a
            foreign class is an OrderedDict.
        left_out (list[str]): dotted places of the objects of foreign code that ``content`` lacks.
    """

    content: dict
    left_out: list[str]


class Inert:
    """An object of foreign code in a checkpoint: its arguments and state as data. The code is never run."""

    args: tuple
    state: object

    def __new__(cls, *args):
        self = super().__new__(cls)
        self.args = args
        return self

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        self.state = state


def read_checkpoint(
    path: str | Path, map_location: MapLocation = None, name: str | None = None, sha256: str | None = None
) -> Checkpoint:
    """Check that a file is whole, and read the tensors in it.

    Args:
        path (str | Path): a safetensors file or a file of torch.save. The content decides which.
        map_location: device of the tensors, as in ``torch.load``; None: the device that they were saved from.
        name (str, optional): name of the file in messages; by default its path.
        sha256 (str, optional): 64 hex digits that the file must have; see
            :func:`mmbackbones.checkpoints.atomic.require_whole` for files without.

    Raises:
        InputError: the file is missing, empty, damaged, not a checkpoint or unsafe, or has another SHA-256.
    """
    path, name = Path(path).expanduser(), name or str(path)
    if not path.is_file():
        raise InputError(f'checkpoint {name}: {"is a folder" if path.is_dir() else "no such file"}')
    with path.open('rb') as file:
        head = file.read(9)
    if not head:
        raise InputError(f'checkpoint {name}: the file is empty (0 bytes)')
    require_whole(path, name, sha256)
    if map_location is None and not torch.cuda.is_available():
        map_location = 'cpu'
    safe_format = path.suffix == '.safetensors' or head[8:] == b'{'
    left_out: list[str] = []
    tensors: list[str] = []
    try:
        saved = _read_safetensors(path, map_location) if safe_format else _read_torch(path, map_location)
        content = _without_inert(saved, '', left_out, tensors)
    except torch.OutOfMemoryError:
        raise
    except MemoryError as error:  # a damaged length of the old format asks for any amount
        raise InputError(f'checkpoint {name}: damaged, or larger than the memory of this machine') from error
    # A damaged or hostile file makes the readers fail in any way there is.
    except Exception as error:
        raise InputError(f'checkpoint {name}: {_reason(head, error)}') from error
    if not isinstance(content, dict):
        trust = TRUST if isinstance(saved, Inert) else ''
        raise InputError(f'checkpoint {name}: holds a {type(saved).__qualname__}, expected a dict of tensors{trust}')
    if not tensors:
        within = f' outside objects of foreign code ({", ".join(left_out)[:80]}){TRUST}' if left_out else ''
        raise InputError(f'checkpoint {name}: holds no tensors{within}')
    return Checkpoint(content, left_out)


def _without_inert(value: Any, place: str, left_out: list[str], tensors: list[str]) -> Any:
    """Copy nested containers without the :class:`Inert` objects in them; note the places of these and of tensors."""

    def keep(items):
        for key, item in items:
            there = f'{place}.{key}' if place else str(key)
            if isinstance(item, Inert) or isinstance(key, Inert):
                left_out.append(there)
            else:
                yield key, _without_inert(item, there, left_out, tensors)

    if isinstance(value, Tensor):
        tensors.append(place)
    elif isinstance(value, dict):
        copy = type(value)()
        copy.update(keep(value.items()))
        if attributes := getattr(value, '__dict__', None):  # a state dict has the versions of its modules in _metadata
            copy.__dict__.update(_without_inert(attributes, place, left_out=[], tensors=[]))
        return copy
    elif type(value) in (list, tuple, set):
        return type(value)(item for _, item in keep(enumerate(value)))
    return value


def _read_safetensors(path: Path, map_location: MapLocation) -> dict[str, Tensor]:
    tensors = load_file(path)
    if callable(map_location):
        return {key: _map_storage(x, map_location) for key, x in tensors.items()}
    device = map_location.get('cpu', 'cpu') if isinstance(map_location, dict) else map_location or 'cpu'
    return {key: x.to(device) for key, x in tensors.items()}


def _map_storage(x: Tensor, map_location: Callable) -> Tensor:
    storage = map_location(x.untyped_storage(), 'cpu')
    return x if storage is None else torch.empty(0, dtype=x.dtype, device=storage.device).set_(storage, 0, x.shape)


def _read_torch(path: Path, map_location: MapLocation) -> object:
    with _only_these_globals([]):
        try:
            names = get_unsafe_globals_in_checkpoint(path)
        except ValueError:  # the format from before torch 1.6 cannot be listed: plain tensors or nothing
            names = []
    dicts = set()
    while True:
        stand_ins = [(_stand_in(name, name in dicts), name) for name in names]
        try:
            with _only_these_globals(stand_ins):
                return torch.load(path, map_location=map_location, weights_only=True)
        except UnpicklingError as error:
            # Whether a class derives from dict shows only when the unpickler is about to set items.
            found = re.search(r"Can only SETITEMS? .* but got <class 'inert\.(.*)'>", str(error))
            if found is None or found[1] in dicts:
                raise
            dicts.add(found[1])


def _stand_in(name: str, is_dict: bool) -> type:
    if is_dict:
        return type(name, (), {'__module__': 'inert', '__new__': lambda cls, *args: OrderedDict()})
    return type(name, (Inert,), {'__module__': 'inert'})


@contextmanager
def _only_these_globals(stand_ins: list[tuple[type, str]]) -> Iterator[None]:
    """Replace torch's allow-list, because other packages may have added callables to it."""
    before = get_safe_globals()
    clear_safe_globals()
    add_safe_globals(stand_ins)
    try:
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(before)


def _reason(head: bytes, error: Exception) -> str:
    text = ' '.join(re.sub(r'\x1b\[\d*m', '', str(error)).split())
    if head.startswith((b'<!', b'<htm', b'<HTM')):
        return 'is a web page, not a checkpoint'
    if head.startswith(b'version h'):
        return 'is a Git LFS pointer, not the file itself'
    if 'TorchScript' in text:
        return f'is a TorchScript archive, which holds code; expected a state dict{TRUST}'
    if '.tar format' in text:
        return f'is in the tar format of an ancient torch, which cannot be read safely; refused{TRUST}'
    if unsafe := re.search(r'GLOBAL (\S+)', text):
        return f'names {unsafe[1]}, which is code; refused{TRUST}'
    if 'for unrecognized function' in text or 'Can only' in text or 'Unsupported operand' in text:
        return f'is not what torch.save writes for plain tensors, so it cannot be read safely; refused{TRUST}'
    if 'CUDA device' in text:
        return text[:300]
    if isinstance(error, SafetensorError) or head.startswith(b'PK'):
        return f'damaged, cut short or no checkpoint ({text[:160]})'
    detail = text.split('WeightsUnpickler error: ')[-1]
    return f'no checkpoint, or damaged ({type(error).__name__}: {detail[:160]})'
