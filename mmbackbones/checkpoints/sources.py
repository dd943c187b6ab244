"""Find the file of a checkpoint's address on this machine, or download it."""

import hashlib
import http.client
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

import huggingface_hub
import torch
from filelock import FileLock
from mmengine.runner.checkpoint import (
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from mmbackbones.errors import InputError

EXPECTED = 'a path, https://…, hf://owner/name/file, zoo://model'
CHECKSUM = '#sha256='
REFUSED = ('pavi', 's3', 'petrel')  # storages of mmengine's that are not public
RESOLVERS: dict[str, Callable[[str], str]] = {}  # scheme: from the rest of the address to another one; mmbackbones.zoo
DOWNLOAD_TIMEOUT = 30  # seconds without an answer; a firewall that drops packets would hang the run


class LocalFile(NamedTuple):
    """A checkpoint on this machine.

    Attributes:
        path (Path): the file. Its existence is not checked.
        name (str): name of the file in messages.
        sha256 (str | None): 64 hex digits that it must have.
        downloaded (bool): whether it is in our cache. A damaged file there is to be removed.
        prefix (str): prefix of the keys of the weights; empty for all keys.
    """

    path: Path
    name: str
    sha256: str | None = None
    downloaded: bool = False
    prefix: str = ''


def find_file(address: str) -> LocalFile:
    """Find the file of an address, and download it if necessary.

    Args:
        address (str): see :func:`mmbackbones.checkpoints.load.load_checkpoint`.

    Raises:
        InputError: the address is malformed, unknown or not supported, or cannot be reached.
    """
    name, sha256 = split_checksum(address)
    place, found, rest = name.partition('://')
    scheme = place.rpartition(':')[2]  # OpenMMLab writes a cluster before it, cluster:s3://…
    if not found:
        return LocalFile(Path(name), name, sha256)
    if scheme in REFUSED:
        raise InputError(f'checkpoint {address}: this storage is not supported; expected {EXPECTED}')
    if place in RESOLVERS:
        return find_file(_checked(RESOLVERS[place](rest), sha256))
    if place in ALIASES:
        urls = ALIASES[place]()
        if rest not in urls:
            raise InputError(f'checkpoint {address}: {place}:// knows no {rest!r}')
        file = find_file(_checked(urls[rest], sha256))
        return file._replace(prefix='backbone.') if place == 'mmcls' else file
    if place in ('http', 'https'):
        path = _download(name)
    elif place == 'hf':
        path = _download_from_hub(name)
    else:
        raise InputError(f'checkpoint {address}: unknown scheme; expected {EXPECTED}')
    return LocalFile(path, f'{name} (cached as {path})', sha256, downloaded=place != 'hf')


def _checked(address: str, sha256: str | None) -> str:
    """The address with the checksum that the user asks for, which goes before one of its own."""
    return split_checksum(address)[0] + f'{CHECKSUM}{sha256}' if sha256 else address


def split_checksum(address: str) -> tuple[str, str | None]:
    """Split ``#sha256=…`` from an address.

    Raises:
        InputError: the text after it is not a SHA-256.
    """
    name, found, digest = address.partition(CHECKSUM)
    if found and not re.fullmatch(r'[0-9a-fA-F]{64}', digest):
        raise InputError(f'checkpoint {address}: expected 64 hex digits after {CHECKSUM}')
    return name, digest.lower() or None


def _openmmlab_models() -> dict[str, str]:
    urls = get_external_models()
    renamed = {old: urls[new] for old, new in get_deprecated_model_names().items() if new in urls}
    return {**urls, **renamed}


# OpenMMLab's aliases, and what gives the addresses of their names.
ALIASES = {
    'modelzoo': get_torchvision_models,
    'torchvision': get_torchvision_models,
    'open-mmlab': _openmmlab_models,
    'openmmlab': _openmmlab_models,
    'mmcls': get_mmcls_models,
}


def _download(url: str) -> Path:
    path = cache_path(url)
    before = socket.getdefaulttimeout()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f'{path}.lock'):  # the processes of a node wait for the first one's download
            if not path.is_file():
                socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
                torch.hub.download_url_to_file(url, str(path), progress=sys.stderr.isatty())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _unreachable(url, url, error) from error
    finally:
        socket.setdefaulttimeout(before)
    return path


def _download_from_hub(address: str) -> Path:
    match = re.fullmatch(r'hf://([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)', address)
    if match is None:
        raise InputError(f'checkpoint {address}: expected hf://owner/name/file or hf://owner/name@revision/file')
    repo, revision, file = match.groups()
    if (by_hand := cache_path(address)).is_file():
        return by_hand
    try:
        return Path(huggingface_hub.hf_hub_download(repo, file, revision=revision))
    # The hub's client has many exceptions without a common base; each means that there is no file.
    except Exception as error:
        raise _unreachable(address, huggingface_hub.hf_hub_url(repo, file, revision=revision), error) from error


def cache_path(address: str) -> Path:
    """Where the file of an ``https://`` or ``hf://`` address is looked for before it is downloaded.

    Files of one name lie at many addresses (``model.safetensors``), so a digest of the address is part of the name.
    """
    digest = hashlib.sha256(address.encode()).hexdigest()[:12]
    return Path(torch.hub.get_dir()) / 'checkpoints' / f'{digest}-{Path(urlparse(address).path).name}'


def _unreachable(address: str, url: str, error: Exception) -> InputError:
    reason = ' '.join(str(error).split())[:200] or type(error).__name__
    what = 'it' if url == address else url
    return InputError(
        f'cannot download {address}: {reason}; download {what} where there is a network and save it as '
        f'{cache_path(address)}, or give the path of the local file instead'
    )
