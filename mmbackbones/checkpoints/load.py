"""The one loader: everything that a run reads (pretrained weights, load_from, resume, test) comes through here.

It takes the place of mmengine's loaders, which unpickle the file when the safe way fails, by mmengine's own
registration of schemes. A file is either safetensors or goes through torch's weights-only unpickler; there is no other
way. Published research checkpoints hold objects of the authors' tools beside the tensors (an argparse.Namespace, a yacs
CfgNode, logs of mmengine). Each of these names is given to the unpickler together with an inert class of ours, so the
file loads without the named code being called or imported.
"""

import hashlib
import http.client
import re
import socket
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from urllib.parse import urlparse

import huggingface_hub
import torch
from filelock import FileLock
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals, get_unsafe_globals_in_checkpoint

from mmbackbones.checkpoints.atomic import require_whole
from mmbackbones.errors import InputError

MapLocation = str | torch.device | dict | Callable | None
SCHEMES = 'a path, https://…, hf://owner/name/file'
CHECKSUM = '#sha256='
TRUST = (
    '; if you trust its author, tools/trust_checkpoint.py runs that code once, on your word, and keeps the plain '
    'tensors'
)
DOWNLOAD_TIMEOUT = 30  # seconds without an answer; a firewall that drops packets would hang the run


class Inert:
    """An object of foreign code in a checkpoint: what it was called with and its state, kept as data, never run."""

    def __new__(cls, *args):
        self = super().__new__(cls)
        self.args = args
        return self

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        self.state = state


def load_checkpoint(filename: str, map_location: MapLocation = 'cpu') -> dict:
    """Load a checkpoint by mmengine's schemes, which all end in this module.

    Args:
        filename (str): a path, ``https://…``, ``hf://owner/name/file`` or ``hf://owner/name@revision/file``, or one of
            OpenMMLab's aliases (``torchvision://``, ``open-mmlab://``, ``mmcls://``). Each may end in ``#sha256=`` and
            64 hex digits, which the file must then have.
        map_location: where the tensors go, as in ``torch.load``; None leaves them on the device they were saved from.

    Raises:
        InputError: the file is missing, empty, damaged, no checkpoint, unsafe, another one than the SHA-256 says, or
            cannot be downloaded.
    """
    return CheckpointLoader.load_checkpoint(filename, map_location)


def split_checksum(filename: str) -> tuple[str, str | None]:
    """Take ``#sha256=…`` off a file name or address.

    Raises:
        InputError: what follows is no SHA-256.
    """
    name, found, digest = filename.partition(CHECKSUM)
    if found and not re.fullmatch(r'[0-9a-fA-F]{64}', digest):
        raise InputError(f'checkpoint {filename}: expected 64 hex digits after {CHECKSUM}')
    return name, digest.lower() or None


def read_checkpoint(
    path: str | Path, map_location: MapLocation = None, name: str | None = None, sha256: str | None = None
) -> dict:
    """Read a file of tensors without running anything that it names.

    Args:
        path (str | Path): a safetensors file, or one that torch.save wrote, told apart by content.
        map_location: see :func:`load_checkpoint`.
        name (str, optional): what the messages call the file, if not its path.
        sha256 (str, optional): 64 hex digits that the file must have; see :func:`require_whole` for files without.

    Returns:
        dict: as saved; foreign objects are :class:`Inert`, those that are dictionaries are an OrderedDict.

    Raises:
        InputError: see :func:`load_checkpoint`.
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
    try:
        if path.suffix == '.safetensors' or head[8:] == b'{':
            checkpoint = _read_safetensors(path, map_location)
        else:
            checkpoint = _read_torch(path, map_location)
        tensors = _count_tensors(checkpoint)
    except torch.OutOfMemoryError:
        raise
    except MemoryError as error:  # a damaged length of the old format asks for any amount
        raise InputError(f'checkpoint {name}: damaged, or larger than the memory of this machine') from error
    # A damaged or hostile file makes the readers fail in any way there is.
    except Exception as error:
        raise InputError(f'checkpoint {name}: {_reason(head, error)}') from error
    if not isinstance(checkpoint, dict):
        trust = TRUST if isinstance(checkpoint, Inert) else ''
        raise InputError(
            f'checkpoint {name}: holds a {type(checkpoint).__qualname__}, expected a dict of tensors{trust}'
        )
    if not tensors:
        foreign = strip_inert(checkpoint)[1]
        within = f' outside objects of foreign code ({", ".join(foreign)[:80]}){TRUST}' if foreign else ''
        raise InputError(f'checkpoint {name}: holds no tensors{within}')
    return checkpoint


def strip_inert(value, path: str = '') -> tuple[object, list[str]]:
    """Copy nested dicts, lists and tuples without the :class:`Inert` objects in them.

    Returns:
        tuple: the copy, and the dotted places where something was left out.
    """
    dropped = []

    def keep(items):
        for key, item in items:
            place = f'{path}.{key}' if path else str(key)
            if isinstance(item, Inert) or isinstance(key, Inert):
                dropped.append(place)
                continue
            copy, below = strip_inert(item, place)
            dropped.extend(below)
            yield key, copy

    if isinstance(value, dict):
        copy = type(value)()
        copy.update(keep(value.items()))
        vars_of = getattr(value, '__dict__', None)
        if vars_of:  # a state dict carries the versions of its modules in _metadata
            copy.__dict__.update(strip_inert(vars_of, path)[0])
        return copy, dropped
    if type(value) in (list, tuple, set):
        return type(value)([item for _, item in keep(enumerate(value))]), dropped
    return value, dropped


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
    """Replace torch's allow-list: what other packages have added to it may be callables."""
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


def _count_tensors(value: object) -> int:
    if isinstance(value, dict | list | tuple):
        return sum(_count_tensors(item) for item in (value.values() if isinstance(value, dict) else value))
    return int(isinstance(value, Tensor))


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location: MapLocation = None) -> dict:
    if '://' in filename:
        raise InputError(f'checkpoint {filename}: unknown scheme; expected {SCHEMES}')
    path, sha256 = split_checksum(filename)
    return read_checkpoint(path, map_location, sha256=sha256)


@CheckpointLoader.register_scheme(prefixes=('http://', 'https://'), force=True)
def load_from_http(filename: str, map_location: MapLocation = None) -> dict:
    url, sha256 = split_checksum(filename)
    # Files of one name lie at many addresses (model.safetensors), so the address is part of the cached name.
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    path = Path(torch.hub.get_dir()) / 'checkpoints' / f'{digest}-{Path(urlparse(url).path).name}'
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f'{path}.lock'):  # the processes of a node wait for the first one's download
            if not path.is_file():
                _download(url, path)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _unreachable(url, error) from error
    try:
        return read_checkpoint(path, map_location, name=f'{url} (cached as {path})', sha256=sha256)
    except InputError as error:
        path.unlink(missing_ok=True)
        raise InputError(f'{error}; the cached file was removed, the next run downloads it again') from error


def _download(url: str, path: Path) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        torch.hub.download_url_to_file(url, str(path), progress=sys.stderr.isatty())
    finally:
        socket.setdefaulttimeout(before)


@CheckpointLoader.register_scheme(prefixes='hf://', force=True)
def load_from_huggingface(filename: str, map_location: MapLocation = None) -> dict:
    filename, sha256 = split_checksum(filename)
    match = re.fullmatch(r'hf://([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)', filename)
    if match is None:
        raise InputError(f'checkpoint {filename}: expected hf://owner/name/file or hf://owner/name@revision/file')
    repo, revision, file = match.groups()
    try:
        path = huggingface_hub.hf_hub_download(repo, file, revision=revision)
    # The hub's client has many exceptions without a common base; each means that there is no file.
    except Exception as error:
        raise _unreachable(filename, error) from error
    return read_checkpoint(path, map_location, name=f'{filename} (cached as {path})', sha256=sha256)


def _unreachable(url: str, error: Exception) -> InputError:
    reason = ' '.join(str(error).split())[:200] or type(error).__name__
    return InputError(
        f'cannot download {url}: {reason}; download it where there is a network and give the path of '
        'the local file instead'
    )


@CheckpointLoader.register_scheme(prefixes=('modelzoo://', 'torchvision://'), force=True)
def load_from_torchvision(filename: str, map_location: MapLocation = None) -> dict:
    return load_from_http(_look_up(filename, get_torchvision_models()), map_location)


@CheckpointLoader.register_scheme(prefixes=('open-mmlab://', 'openmmlab://'), force=True)
def load_from_openmmlab(filename: str, map_location: MapLocation = None) -> dict:
    scheme, name = filename.split('://')
    name, *checksum = name.partition(CHECKSUM)
    name = get_deprecated_model_names().get(name, name)
    url = _look_up(f'{scheme}://{name}{"".join(checksum)}', get_external_models())
    return load_checkpoint(url, map_location)


@CheckpointLoader.register_scheme(prefixes='mmcls://', force=True)
def load_from_mmcls(filename: str, map_location: MapLocation = None) -> dict:
    checkpoint = load_from_http(_look_up(filename, get_mmcls_models()), map_location)
    state_dict = checkpoint.get('state_dict', checkpoint)
    return {
        'state_dict': OrderedDict(
            (key.removeprefix('backbone.'), value) for key, value in state_dict.items() if key.startswith('backbone.')
        )
    }


def _look_up(filename: str, urls: dict[str, str]) -> str:
    scheme, name = filename.split('://', 1)
    name, *checksum = name.partition(CHECKSUM)
    if name not in urls:
        raise InputError(f'checkpoint {filename}: {scheme}:// knows no {name!r}')
    return urls[name] + ''.join(checksum)


@CheckpointLoader.register_scheme(prefixes=('pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://'), force=True)
def load_from_refused(filename: str, map_location: MapLocation = None) -> dict:
    raise InputError(f'checkpoint {filename}: this storage is not supported; expected {SCHEMES}')
