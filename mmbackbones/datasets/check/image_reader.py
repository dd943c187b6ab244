"""How a pipeline reads its images: mmcv's decoder and the colour flag, as its ``LoadImageFromFile`` names them."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple

import cv2
import mmcv
import numpy as np
from PIL import Image

TURNING_FLAGS = ('color', 'grayscale')  # other flags of mmcv ignore the EXIF orientation
PNG_DEPTH = 24  # offset in a PNG file of the number of bits per channel
EXIF_ORIENTATION = 0x0112
TURNED = (2, 3, 4, 5, 6, 7, 8)  # EXIF orientations that turn or mirror an image
DARK = 1 << 14  # 16-bit images whose values all lie below it use a quarter of the range


class ImageReader(NamedTuple):
    """A pipeline's decoder of images.

    Attributes:
        backend (str | None): mmcv's name of it: ``cv2``, ``pillow``, ``turbojpeg`` or ``tifffile``. None for a loader
            that is not mmcv's; its images are not decoded.
        flag (str): mmcv's colour flag, such as ``color``.
    """

    backend: str | None = 'cv2'
    flag: str = 'color'

    @classmethod
    def of(cls, pipeline: object) -> 'ImageReader':
        """The reader of a pipeline's first loader of images; mmcv's default if it has none."""
        for step in _steps(pipeline):
            name = step['type'] if isinstance(step['type'], str) else step['type'].__name__
            if name.split('.')[-1] == 'LoadImageFromFile':
                return cls(step.get('imdecode_backend', 'cv2'), step.get('color_type', 'color'))
            if re.search('Load.*Image', name):
                return cls(backend=None)
        return cls()

    def __str__(self) -> str:
        return 'OpenCV' if self.backend == 'cv2' else str(self.backend)

    def reads(self, image: Image.Image, file: BinaryIO) -> bool:
        """Whether the header alone shows that the file can be decoded: a JPEG or PNG of 8 bits per channel."""
        if self.backend is None:
            return True
        if self.backend not in ('cv2', 'pillow') or self.flag == 'unchanged':
            return False
        if image.format == 'PNG':
            file.seek(PNG_DEPTH)
            return file.read(1) != b'\x10'
        return image.format in ('JPEG', 'MPO')

    def orientation(self, image: Image.Image) -> int:
        """EXIF orientation by which a JPEG or PNG is turned when it is decoded; 1 for an image as it stands."""
        if 'exif' not in image.info or self.flag not in TURNING_FLAGS or self.backend in ('turbojpeg', 'tifffile'):
            return 1
        try:
            found = image.getexif().get(EXIF_ORIENTATION)
        except Exception:  # damaged EXIF data; decoders ignore it
            return 1
        return found if found in TURNED else 1

    def decode(self, data: bytes) -> np.ndarray | None:
        """Pixels as the pipeline gets them, [H, W] or [H, W, C]; None or any error if they cannot be decoded."""
        return mmcv.imfrombytes(data, flag=self.flag, backend=self.backend)

    def loss(self, data: bytes, pixels: np.ndarray) -> tuple[str | None, str | None]:
        """A fault and a warning on values that the file has and the decoded pixels have not."""
        if self.backend not in ('cv2', 'pillow'):
            return None, None
        raw = _raw(data, self.backend)
        if raw is None or raw.dtype == np.uint8 or raw.dtype == bool or pixels.dtype != np.uint8:
            return None, None
        values = f'its {raw.dtype} values from {raw.min()} to {raw.max()}'
        if pixels.min() == pixels.max() and raw.min() != raw.max():
            return f'{self} makes one colour of {values}; convert it to 8 bits per channel', None
        if self.backend == 'cv2' and raw.dtype == np.uint16 and raw.max() < DARK:
            return None, f'{self} keeps the upper 8 bits of {values}: the image is nearly black'
        if self.backend == 'pillow' and raw.dtype.kind in 'iu' and raw.max() > 255:
            return None, f'{self} cuts {values} off at 255'
        return None, None


OPENCV = ImageReader()


def _raw(data: bytes, backend: str) -> np.ndarray | None:
    if backend == 'cv2':
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def _steps(node: object) -> Iterator[Mapping]:
    """Every dict with a type in a pipeline, in order."""
    if isinstance(node, Mapping):
        if 'type' in node:
            yield node
        for value in node.values():
            yield from _steps(value)
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for value in node:
            yield from _steps(value)
