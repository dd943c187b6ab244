"""What the demo is shown: an image, the images of a folder, or the frames of a video."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
from mmdet.apis.det_inferencer import IMG_EXTENSIONS

from mmbackbones.datasets.check.files import in_threads, inspect_image, one_line
from mmbackbones.datasets.check.image_reader import OPENCV, ImageReader
from mmbackbones.errors import InputError
from mmbackbones.evaluation.outputs import names_of_images

VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv')
USUAL_RATE = 25.0  # frames per second, of a video that does not say


class Picture(NamedTuple):
    """An image file, and the name of its results."""

    path: Path
    name: str


class Video(NamedTuple):
    """A video file. ``rate`` is in frames per second; ``frames`` is what the file says and may be wrong."""

    path: Path
    name: str
    rate: float
    frames: int


def find(path: str | Path, reader: ImageReader = OPENCV) -> list[Picture] | Video:
    """Find out what a path is. Every image is read to its end, so that a damaged one is refused before the work.

    Args:
        path: an image, a folder of images (other files in it and folders below it are left alone), or a video.
        reader: decodes the images.

    Raises:
        InputError: there is no such file, an image cannot be read, a folder has no images, or a video has no frames.
    """
    path = Path(path)
    if path.is_dir():
        paths = sorted(file for file in path.iterdir() if file.suffix.lower() in IMG_EXTENSIONS and file.is_file())
        if not paths:
            raise InputError(f'{path}: holds no images ({", ".join(IMG_EXTENSIONS)})')
    elif path.suffix.lower() in VIDEOS:
        return _video(path)
    else:
        paths = [path]
    facts = in_threads(lambda file: inspect_image(str(file), decode=True, reader=reader), paths, 'images')
    faults = [f'{file}: {fact.fault}' for file, fact in zip(paths, facts) if fact.fault]
    if faults:
        more = f' (and {len(faults) - 1} more files cannot be read)' if len(faults) > 1 else ''
        raise InputError(f'{faults[0]}{more}')
    names = names_of_images([str(file) for file in paths])
    return [Picture(file, names[str(file)]) for file in paths]


def read(path: str | Path, reader: ImageReader = OPENCV) -> np.ndarray:
    """The pixels of an image, [H, W, 3] uint8 BGR.

    Raises:
        InputError: it cannot be read.
    """
    fault = inspect_image(str(path), decode=True, reader=reader).fault
    pixels = None
    if fault is None:
        try:
            pixels = reader.decode(Path(path).read_bytes())
        except Exception as error:  # each decoder has types of its own
            fault = f'not a readable image: {one_line(error)}'
    if pixels is None or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise InputError(f'{path}: {fault or "not an image of three channels of 8 bits"}')
    return pixels


def frames(video: Video) -> Iterator[np.ndarray]:
    """The frames of a video, [H, W, 3] uint8 BGR, all of one size.

    Raises:
        InputError: the size changes.
    """
    size = None
    for number, frame in enumerate(mmcv.VideoReader(str(video.path))):
        size = size or frame.shape
        if frame.shape != size:
            raise InputError(
                f'{video.path}: frame {number} is {frame.shape[1]}x{frame.shape[0]} px, those before are '
                f'{size[1]}x{size[0]} px'
            )
        yield frame


def _video(path: Path) -> Video:
    if not path.is_file():
        raise InputError(f'{path}: no such file')
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')  # our sentence is enough
    video = mmcv.VideoReader(str(path))
    if not video.opened or video.read() is None:
        raise InputError(f'{path}: not a readable video; not one frame can be decoded')
    rate = video.fps if video.fps and 0 < video.fps < 1000 else USUAL_RATE
    return Video(path, path.stem, float(rate), max(0, video.frame_cnt))
