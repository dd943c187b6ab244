"""The data check of single files: existence, completeness and size."""

import hashlib
import os
import stat
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import NamedTuple, TypeVar

import cv2
from mmengine.logging import print_log
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmbackbones.datasets.check.image_reader import OPENCV, ImageReader

Item = TypeVar('Item')
Result = TypeVar('Result')

WORKERS = 16  # more than cores: on network disks the time goes by waiting
LONG = 5000  # files, from where on the check announces itself
TAIL = 4096  # bytes
END_MARKERS = {'JPEG': b'\xff\xd9', 'MPO': b'\xff\xd9', 'PNG': b'\0\0\0\0IEND\xaeB`\x82'}
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
HUGE = Lock()  # held to decode what Pillow finds too large: it may take gigabytes


class FileFacts(NamedTuple):
    """Result of the check of one file.

    Attributes:
        bytes (int): length of the file, -1 if it is missing.
        size (tuple[int, int] | None): width and height in pixels as mmcv loads it.
        fault (str | None): a sentence that names the fault.
        orientation (int): EXIF orientation, by which mmcv turns the image; 1 for an image as it stands.
        warning (str | None): a sentence that names what is lost when the image is read.
        channels (int | None): number of channels, for decoded images.
    """

    bytes: int
    size: tuple[int, int] | None = None
    fault: str | None = None
    orientation: int = 1
    warning: str | None = None
    channels: int | None = None


def inspect_image(path: str, decode: bool = False, reader: ImageReader = OPENCV) -> FileFacts:
    """Check size, header and end marker of an image file; with ``decode`` also every pixel.

    A file of a rare kind is always decoded, as ``reader`` does: not every decoder knows what Pillow knows, and the
    other way round.
    """
    try:
        with open(path, 'rb') as file:
            length = os.fstat(file.fileno()).st_size
            if length == 0:
                return FileFacts(0, fault='the file is empty (0 bytes)')
            try:
                with Image.open(file) as image:
                    orientation = reader.orientation(image)
                    size = image.size[::-1] if orientation in SIDEWAYS else image.size
                    known, kind = reader.reads(image, file), f'{image.format} ({image.mode})'
                    frames = 1 if image.format == 'MPO' else getattr(image, 'n_frames', 1)
                    file.seek(-min(length, TAIL), os.SEEK_END)
                    tail = file.read().rstrip(b'\0')
                    marker = END_MARKERS.get(image.format, b'')
            except (UnidentifiedImageError, Image.DecompressionBombError) as error:
                if reader.backend is None:
                    raise
                with HUGE:
                    return _decoded(path, length, reader, one_line(error))
        if not tail.endswith(marker) and marker not in tail:
            detail = f'truncated: the end marker of a {image.format} file is missing'
            return FileFacts(length, size, detail, orientation=orientation)
        # Bytes after the marker are harmless; only decoding tells them from a marker of an embedded preview.
        if known and (decode or not tail.endswith(marker)):
            with Image.open(path) as image:
                image.load()
        facts = FileFacts(length, size, orientation=orientation)
        if reader.backend and (decode or not known):
            failure = f'{reader}, which loads the images, cannot decode this {kind}'
            facts = _decoded(path, length, reader, failure, usual=known)
            if image.format in ('JPEG', 'MPO', 'PNG'):
                facts = facts._replace(orientation=orientation)
        if frames > 1 and not facts.fault and not facts.warning:
            facts = facts._replace(warning=f'holds {frames} frames or pages; only the first is read')
        return facts
    except FileNotFoundError:
        return FileFacts(-1, fault='no such file')
    except Exception as error:  # Pillow raises half a dozen types for damaged files
        return FileFacts(file_length(path), fault=f'not a readable image: {one_line(error)}')


def _decoded(path: str, length: int, reader: ImageReader, failure: str, usual: bool = False) -> FileFacts:
    with open(path, 'rb') as file:
        data = file.read()
    try:
        pixels = reader.decode(data)
    except Exception as error:  # each decoder has types of its own
        return FileFacts(length, fault=f'not a readable image: {failure}: {one_line(error)}')
    if pixels is None:
        return FileFacts(length, fault=f'not a readable image: {failure}')
    fault, warning = (None, None) if usual else reader.loss(data, pixels)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    return FileFacts(length, (pixels.shape[1], pixels.shape[0]), fault, warning=warning, channels=channels)


def file_length(path: str) -> int:
    """Length of a file in bytes, -1 if there is none."""
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):  # ValueError: no possible file name
        return -1


def missing_folder(path: str) -> str:
    """Clause that names the topmost folder above ``path`` that does not exist; empty if only ``path`` is missing."""
    missing = None
    while (path := os.path.dirname(path.rstrip('/'))) and not os.path.isdir(path):
        missing = path
    return f'; the folder {missing} does not exist' if missing else ''


def near_name(path: str) -> str:
    """Clause that names the file that is there under almost this name: other case, Unicode form or slashes."""
    folder, name = os.path.split(path.replace('\\', '/'))
    try:
        there = next((other for other in os.listdir(folder or '.') if _plain(other) == _plain(name)), None)
    except (OSError, ValueError):  # no such folder, or no possible name
        return ''
    return f'; there is {there!r} in {folder}' if there else ''


def _plain(name: str) -> str:
    return unicodedata.normalize('NFC', name).casefold()


def one_line(error: Exception) -> str:
    """What an image library says of a file."""
    if isinstance(error, UnidentifiedImageError):
        return 'its format is not recognised'
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ' '.join(text.split()) or type(error).__name__


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], title: str) -> list[Result]:
    """``[function(item) for item in items]`` in threads, with a progress bar on a terminal."""
    if len(items) >= LONG:
        print_log(
            f'Data check: {title}, {len(items)} files. This is done once; later runs find the result cached.',
            logger='current',
        )
    chunks = [items[start : start + 64] for start in range(0, len(items), 64)]
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    results: list[Result] = []
    with (
        _quiet_opencv(),
        Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress,
    ):
        task = progress.add_task(title, total=len(items))
        with ThreadPoolExecutor(WORKERS) as pool:
            for done in pool.map(lambda chunk: [function(item) for item in chunk], chunks):
                results += done
                progress.advance(task, len(done))
    return results


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """OpenCV prints lines of its own on every damaged image; the check names each."""
    level = cv2.getLogLevel()
    cv2.setLogLevel(0)
    try:
        yield
    finally:
        cv2.setLogLevel(level)


def digest(annotations: str, files: Iterable[tuple]) -> str:
    """First 16 hex digits of the SHA-256 over the digest of the annotations and (name, size, …) of each file."""
    total = hashlib.sha256(annotations.encode())
    for row in sorted(files):
        total.update('\0'.join(map(str, row)).encode(errors='surrogatepass') + b'\n')
    return total.hexdigest()[:16]


def stamp(paths: Iterable[str]) -> str | None:
    """Digest of names, sizes and times of all files at and below ``paths``; None if one is missing."""
    total = hashlib.sha256()
    pending, seen = list(paths), set()
    try:
        while pending:
            path = pending.pop()
            status = os.stat(path)
            if not stat.S_ISDIR(status.st_mode):
                total.update(f'{path}|{status.st_size}|{status.st_mtime_ns}\0'.encode(errors='surrogatepass'))
            elif (status.st_dev, status.st_ino) not in seen:  # else a link back up
                seen.add((status.st_dev, status.st_ino))
                rows, folders = [], []
                with os.scandir(path) as entries:
                    for entry in entries:
                        if entry.is_dir():
                            folders.append(entry.path)
                        else:
                            status = entry.stat()
                            rows.append(f'{entry.name}|{status.st_size}|{status.st_mtime_ns}')
                pending += sorted(folders)
                total.update('\0'.join([path, *sorted(rows), '']).encode(errors='surrogatepass'))
    except OSError:
        return None
    return total.hexdigest()
