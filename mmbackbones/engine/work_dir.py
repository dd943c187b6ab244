"""The folder of a training: one training at a time writes to it, and it never holds checkpoints of two."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from mmbackbones.checkpoints.atomic import checksum_file
from mmbackbones.checkpoints.resume import NUMBERED, POINTER
from mmbackbones.errors import InputError

LOCK = '.training.lock'
EARLIER = '.earlier'  # folder for what earlier trainings left; hidden, so that tables and reports pass it by
RESULTS = ('final', 'final-multi-scale')
HELD = (errno.EACCES, errno.EAGAIN)


@contextlib.contextmanager
def only_training(work_dir: str | Path) -> Iterator[str | None]:
    """Hold the lock of a work dir. The operating system releases it when the process ends, however it ends.

    It belongs to this process alone: processes that it starts do not keep it.

    Args:
        work_dir: the folder; it is made if it is missing.

    Yields:
        str | None: a sentence if the file system has no locks, so that nothing protects the folder.

    Raises:
        InputError: another training runs in this folder; the message names its process and machine.
    """
    path = Path(work_dir, LOCK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open('a+')
    except OSError as error:
        raise InputError(f'work dir {work_dir}: {path.name} cannot be written: {error.strerror or error}') from error
    with file:
        warning = None
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                raise InputError(
                    f'work dir {work_dir}: another training is running in it ({_holder(file)}); wait for its end, stop '
                    'it, or choose another --work-dir'
                ) from error
            warning = f'{work_dir}: the file system has no locks ({error.strerror}); start no second training in it'
        file.truncate(0)
        json.dump(dict(pid=os.getpid(), host=socket.gethostname(), since=time.strftime('%Y-%m-%d %H:%M:%S')), file)
        file.flush()
        yield warning


def running_training(work_dir: str | Path) -> str | None:
    """The process that trains in a folder, in words; None if there is none, or the file system has no locks.

    Must not be called by the process that holds the lock: closing the file would release it.
    """
    try:
        with Path(work_dir, LOCK).open('r+') as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                return _holder(file) if error.errno in HELD else None
    except OSError:
        return None
    return None


def _holder(file: TextIO) -> str:
    file.seek(0)
    try:
        held = json.loads(file.read())
        return f'process {held["pid"]} on {held["host"]} since {held["since"]}'
    except (ValueError, KeyError, TypeError):  # it has the lock and is about to write its name
        return 'it has just begun'


def set_earlier_aside(
    folders: Sequence[str | Path], resumed: str | None = None, load_from: str | None = None
) -> list[str]:
    """Move what an earlier training left in a work dir into a folder below ``.earlier``.

    Args:
        folders: the work dir of a training that is about to begin, and the folder of its checkpoints if it is another.
        resumed: the checkpoint that it resumes. If it lies in one of the folders, the results stay, and only later
            checkpoints are moved, because the training goes on in another way from here.
        load_from: the checkpoint whose weights it starts from.

    Returns:
        list[str]: a sentence for each folder from which anything was moved.

    Raises:
        InputError: ``load_from`` is among what would be moved, or it cannot be moved.
    """
    places = list(dict.fromkeys(Path(folder).resolve() for folder in folders))
    source = Path(resumed).resolve() if resumed else None
    found = {place: sorted(filter(_is_of_training, place.glob('*.pth'))) for place in places}
    if source and source.parent in places:
        found = {source.parent: [path for path in found[source.parent] if _later(path, source)]}
    else:
        found[places[0]] += [path for name in (POINTER, *RESULTS) if (path := places[0] / name).exists()]
    if load_from and any(Path(load_from).resolve() in paths for paths in found.values()):
        raise InputError(
            f'load_from={load_from}: lies in the work dir of the training that it starts, where it would be set aside; '
            'choose another --work-dir'
        )
    return [_move_aside(place, paths) for place, paths in found.items() if paths]


def _move_aside(work_dir: Path, found: list[Path]) -> str:
    target = work_dir / EARLIER / time.strftime('%Y%m%d_%H%M%S')
    while target.exists():
        target = target.with_name(f'{target.name}_')
    try:
        target.mkdir(parents=True)
        for path in found:
            path.rename(target / path.name)
            if checksum_file(path).exists():
                checksum_file(path).rename(checksum_file(target / path.name))
    except OSError as error:
        raise InputError(
            f'work dir {work_dir}: what an earlier training left cannot be moved to {target}: {error.strerror or error}'
        ) from error
    names = ', '.join(path.name for path in found[:4]) + (f' and {len(found) - 4} more' if len(found) > 4 else '')
    return f'{work_dir} holds an earlier training; moved to {target}: {names}'


def _is_of_training(path: Path) -> bool:
    return NUMBERED.fullmatch(path.name) is not None and path.name.startswith(('iter_', 'epoch_', 'best_'))


def _later(path: Path, source: Path) -> bool:
    numbers = [int(match[1]) if (match := NUMBERED.fullmatch(each.name)) else -1 for each in (path, source)]
    return path.name.startswith(source.name.split('_')[0]) and numbers[0] > numbers[1] >= 0
