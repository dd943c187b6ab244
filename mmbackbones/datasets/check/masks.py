"""The data check of one index mask: what mmseg's ``LoadAnnotations`` makes of the file."""

import hashlib
import io
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
from PIL import Image

from mmbackbones.datasets.check.files import file_length, one_line

JPEG_START = b'\xff\xd8\xff'


class MaskFacts(NamedTuple):
    """Result of the check of one mask.

    Attributes:
        bytes (int): length of the file, -1 if it is missing.
        size (tuple[int, int] | None): width and height in pixels.
        fault (str | None): a sentence that names the fault.
        sha256 (str): SHA-256 of the whole file.
        labels (dict[int, int] | None): number of pixels of each label.
        lossy (bool): the file is a JPEG.
    """

    bytes: int
    size: tuple[int, int] | None = None
    fault: str | None = None
    sha256: str = ''
    labels: dict[int, int] | None = None
    lossy: bool = False


def inspect_mask(path: str, backend: str | None = 'pillow') -> MaskFacts:
    """Decode an index mask once.

    Args:
        path: The file.
        backend: Image library of the pipeline, ``LoadAnnotations.imdecode_backend``; None for a mask that another
            transform loads, which is not decoded.
    """
    try:
        data = Path(path).read_bytes()
        if not data:
            return MaskFacts(0, fault='the file is empty (0 bytes)')
        facts = MaskFacts(len(data), sha256=hashlib.sha256(data).hexdigest(), lossy=data.startswith(JPEG_START))
        if backend is None:
            return facts
        found = _with_pillow(data) if backend == 'pillow' else None
        return facts._replace(**(found or _labels(mmcv.imfrombytes(data, flag='unchanged', backend=backend), backend)))
    except FileNotFoundError:
        return MaskFacts(-1, fault='no such file')
    except Exception as error:  # decoders raise half a dozen types for damaged files
        return MaskFacts(file_length(path), fault=f'not a readable mask: {one_line(error)}')


def _with_pillow(data: bytes) -> dict | None:
    """The usual masks of 8 bits, several times faster than through an array; None for others."""
    with Image.open(io.BytesIO(data)) as mask:
        if len(mask.getbands()) > 1:
            return dict(size=mask.size, fault=f'not an index mask: its mode is {mask.mode}, one channel was expected')
        if mask.mode not in ('L', 'P') or 1 in mask.size:
            return None
        return dict(size=mask.size, labels={label: count for label, count in enumerate(mask.histogram()) if count})


def _labels(array: np.ndarray | None, backend: str) -> dict:
    if array is None:
        return dict(fault=f'not a readable mask: {backend} cannot decode it')
    size = array.shape[1::-1]
    if array.squeeze().ndim > 2:
        shape = ' x '.join(map(str, array.shape))
        return dict(
            size=size,
            fault=f'not an index mask: LoadAnnotations.imdecode_backend={backend!r} reads it as {shape}, one channel '
            'was expected',
        )
    if array.squeeze().ndim < 2:
        return dict(size=size, fault=f'is {size[0]}x{size[1]} px: mmseg cannot load a mask of one row or column')
    values, counts = np.unique(array, return_counts=True)
    if array.dtype.kind == 'f' and not np.array_equal(values, np.floor(values)):
        return dict(size=size, fault=f'not an index mask: it holds fractions such as {values[values % 1 != 0][0]:g}')
    return dict(size=size, labels={int(value): int(count) for value, count in zip(values, counts)})
