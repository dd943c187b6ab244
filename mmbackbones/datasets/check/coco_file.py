"""Read a COCO annotation file as pycocotools does, and name what keeps it from doing so."""

import codecs
import hashlib
import json
import locale

from mmbackbones.datasets.check.files import missing_folder
from mmbackbones.errors import InputError

# UTF-32 first: its little-endian mark begins with that of UTF-16.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: 'UTF-8',
    codecs.BOM_UTF32_LE: 'UTF-32',
    codecs.BOM_UTF32_BE: 'UTF-32',
    codecs.BOM_UTF16_LE: 'UTF-16',
    codecs.BOM_UTF16_BE: 'UTF-16',
}


def read_annotations(path: str) -> tuple[str, dict]:
    """SHA-256 of the file, and its content.

    Raises:
        InputError: pycocotools cannot read it; one line that names the file and the cause.
    """
    try:
        with open(path, 'rb') as file:
            data = file.read()
    except FileNotFoundError:
        raise InputError(f'{path}: no such annotation file{missing_folder(path)}') from None
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror}') from None
    if not data.strip():
        raise InputError(f'{path}: the annotation file is empty ({len(data)} bytes)')
    for mark, name in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            raise InputError(
                f'{path}: begins with a byte order mark ({name}), which pycocotools does not read: '
                'save it as UTF-8 without one'
            )
    # pycocotools opens it as text, in the encoding of the environment.
    encoding = locale.getpreferredencoding(False)
    try:
        content = json.loads(data.decode(encoding))
    except UnicodeDecodeError as error:
        raise InputError(
            f'{path}: is not {encoding} text, as which pycocotools reads it (byte {error.start}): save it as UTF-8'
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f'{path}: malformed JSON: {error}{_lines(data)}') from None
    if not isinstance(content, dict):
        raise InputError(f'{path}: a COCO annotation file is a JSON object, not a {type(content).__name__}')
    return hashlib.sha256(data).hexdigest(), content


def _lines(data: bytes) -> str:
    try:
        first = json.loads(data.lstrip().split(b'\n', 1)[0])
    except (ValueError, RecursionError):
        return ''
    return f'; it holds one {type(first).__name__} per line (JSON lines), not one object'
