"""Options that name a folder or a file to write: what cannot be made or written is refused before the work begins."""

import argparse
import os
import tempfile
from pathlib import Path

from mmbackbones.errors import InputError


def require_folder(option: str, path: str | Path) -> None:
    """Refuse a folder that cannot be made or written to. Nothing is made.

    Args:
        option: what the message calls it, such as ``--out``.
        path: the folder; it and folders above it may be missing.

    Raises:
        InputError: a file is in the way, the folders above are not writable, or the name is not allowed.
    """
    place = Path(path).absolute()
    try:
        existing = next(folder for folder in (place, *place.parents) if _exists(folder))
        if not existing.is_dir():
            raise InputError(f'{option} {path}: the folder cannot be made, {existing} is {_kind(existing)}')
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        what = 'written to' if os.path.isdir(place) else 'made'
        raise InputError(f'{option} {path}: the folder cannot be {what}: {error.strerror or error}') from error


def require_file(option: str, path: str | Path) -> None:
    """Refuse a file that cannot be written. Nothing is written.

    Raises:
        InputError: the path is a folder, or the file or its folder is not writable.
    """
    place = Path(path).absolute()
    if place.is_dir():
        raise InputError(f'{option} {path}: is a folder, expected a file')
    if place.is_file():
        if not os.access(place, os.W_OK):
            raise InputError(f'{option} {path}: the file cannot be written')
        return
    require_folder(option, place.parent)


class FolderOption(argparse.Action):
    """An option that names a folder to write, checked by :func:`require_folder` when the command line is read."""

    def __call__(self, parser, namespace, values, option_string=None):
        require_folder(option_string or self.dest, values)
        setattr(namespace, self.dest, values)


class FileOption(argparse.Action):
    """An option that names a file to write, checked by :func:`require_file` when the command line is read."""

    def __call__(self, parser, namespace, values, option_string=None):
        require_file(option_string or self.dest, values)
        setattr(namespace, self.dest, values)


def _exists(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _kind(path: Path) -> str:
    return 'a link to nothing' if path.is_symlink() and not path.exists() else 'a file'
