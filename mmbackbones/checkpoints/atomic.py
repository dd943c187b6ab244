"""Files that are whole or absent.

A file is written to a temporary file, read back and renamed. Its SHA-256 is in a file beside it.
"""

import contextlib
import errno
import hashlib
import os
import re
import zipfile
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from mmbackbones.errors import InputError

BACKEND = 'mmbackbones.verified'
BLOCK = 1 << 20  # bytes read at a time


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def checksum_file(path: Path) -> Path:
    """The file with the checksum of ``path``, in the format of ``sha256sum -c``."""
    return path.with_name(f'{path.name}.sha256')


def partial_file(path: Path) -> Path:
    """The temporary file of ``path``."""
    return path.with_name(f'.{path.name}.writing')


def write_whole(path: Path, data: bytes) -> None:
    """Give ``path`` this content or leave it as it was, even if the process is killed.

    Raises:
        OSError: the disk is full, or the file read back differs from the content.
    """
    _put_in_place(_stage(partial_file(path), data), path)


def write_shared(path: Path, data: bytes) -> None:
    """Do as :func:`write_whole` for a file that several processes may write at a time; folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_file(path.with_name(f'{path.name}.{os.getpid()}'))
    _put_in_place(_stage(partial, data), path)


def write_with_checksum(path: Path, data: bytes) -> None:
    """Do as :func:`write_whole`, and write the checksum beside. No file ever lies beside another one's checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = checksum_file(path)
    line = f'{hashlib.sha256(data).hexdigest()}  {path.name}\n'
    staged = _stage(partial_file(path), data), _stage(partial_file(beside), line.encode())
    beside.unlink(missing_ok=True)
    for partial, place in zip(staged, (path, beside)):
        _put_in_place(partial, place)


def cannot_write(path: Path, error: OSError) -> InputError:
    """The error of the functions above, in one line for the user."""
    return InputError(f'cannot write {path}: {error.strerror or error}; earlier checkpoints are as they were')


@register_backend(BACKEND)
class VerifiedBackend(LocalBackend):
    """mmengine's local storage, whose files are whole, verified and with checksum, or absent."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write_with_checksum(Path(filepath), bytes(obj))

    def remove(self, filepath: str | Path) -> None:
        super().remove(filepath)
        checksum_file(Path(filepath)).unlink(missing_ok=True)


class DelayedRemoval:
    """A storage backend that delays every removal until it is asked to remove."""

    def __init__(self, backend: LocalBackend):
        self._backend = backend
        self.outdated: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def remove(self, filepath: str) -> None:
        self.outdated.append(filepath)

    def really_remove(self) -> None:
        while self.outdated:
            with contextlib.suppress(FileNotFoundError):
                self._backend.remove(self.outdated.pop())


def _stage(partial: Path, data: bytes) -> Path:
    try:
        with partial.open('wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, 'posix_fadvise'):  # else the page cache, not the disk, would be read back
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if sha256_of(partial) != hashlib.sha256(data).hexdigest():
            raise OSError(errno.EIO, 'it does not read back as written')
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    return partial


def _put_in_place(partial: Path, path: Path) -> None:
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the renaming itself
    finally:
        os.close(folder)


def require_whole(path: Path, name: str, sha256: str | None = None) -> None:
    """Refuse a damaged file.

    The content is compared with the given SHA-256, else with the one beside the file. If there is neither, files of
    torch.save are compared with the CRC-32 of every member, which torch does not check.

    Args:
        path (Path): the file.
        name (str): name of the file in messages.
        sha256 (str, optional): 64 hex digits.

    Raises:
        InputError: they differ, or the members of an archive are larger than the file.
    """
    beside = checksum_file(path)
    wanted, source = sha256, 'asked for'
    if wanted is None and beside.is_file():
        found = re.match(r'[0-9a-fA-F]{64}\b', beside.read_text(errors='replace'))
        wanted, source = found and found[0].lower(), f'in {beside.name}'
        if wanted is None:
            raise InputError(f'checkpoint {name}: damaged: {beside.name} beside it holds no SHA-256')
    if wanted is not None:
        digest = sha256_of(path)
        if digest != wanted:
            raise InputError(
                f'checkpoint {name}: its SHA-256 is {digest}, the one {source} is {wanted}; '
                f'{"another file" if sha256 else "damaged"}, refused'
            )
        return
    try:
        fault = _fault_of_archive(path)
    # A damaged or hostile archive makes the reader fail in any way there is.
    except Exception as error:
        fault = f'damaged ({type(error).__name__}: {error})'
    if fault:
        raise InputError(f'checkpoint {name}: {fault}')


def _fault_of_archive(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if any('/code/' in name for name in archive.namelist()):
            return None  # TorchScript, which the loader refuses unread
        size = sum(member.file_size for member in archive.infolist())
        if size > path.stat().st_size:
            return f'unpacks to {size:,} bytes, more than the file has, where torch.save compresses nothing; refused'
        member = archive.testzip()
    return member and f'damaged: the CRC-32 of its member {member} is wrong'
