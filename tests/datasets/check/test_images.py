"""The check reads images as the pipeline does: what OpenCV cannot decode, or decodes with losses, is named."""

import io

import cv2
import mmcv
import numpy as np
import pytest
from PIL import Image

from mmbackbones.datasets.check.files import inspect_image
from mmbackbones.datasets.check.image_reader import ImageReader

pytestmark = pytest.mark.promise('data-check')

PIXELS = np.zeros((40, 60, 3), np.uint8)
PIXELS[10:30, 10:30] = (90, 160, 220)
PICTURE = Image.fromarray(PIXELS)
GREY = np.asarray(PICTURE.convert('L'))
TURNED = Image.Exif()
TURNED[0x0112] = 6


def saved(image: Image.Image, kind: str, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def opencv(pixels: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


FRAMES = dict(save_all=True, append_images=[PICTURE.rotate(180)])
CLEAN = None
IMAGES = {
    'JPEG': (saved(PICTURE, 'JPEG'), CLEAN),
    'JPEG, CMYK': (saved(PICTURE.convert('CMYK'), 'JPEG'), CLEAN),
    'JPEG, turned': (saved(PICTURE, 'JPEG', exif=TURNED), CLEAN),
    'PNG, turned': (saved(PICTURE, 'PNG', exif=TURNED), CLEAN),
    'WebP, turned': (saved(PICTURE, 'WEBP', exif=TURNED), CLEAN),
    'TIFF, turned': (saved(PICTURE, 'TIFF', exif=TURNED), CLEAN),
    'PNG, palette': (saved(PICTURE.convert('P'), 'PNG'), CLEAN),
    'PNG, alpha': (saved(PICTURE.convert('RGBA'), 'PNG'), CLEAN),
    'PNG, one bit': (saved(PICTURE.convert('1'), 'PNG'), CLEAN),
    'BMP': (saved(PICTURE, 'BMP'), CLEAN),
    'GIF': (saved(PICTURE, 'GIF'), CLEAN),
    'HDR, which Pillow does not know': (opencv(PIXELS.astype(np.float32) / 255, '.hdr'), CLEAN),
    'PNG, 16 bit': (opencv(PIXELS.astype(np.uint16) * 256, '.png'), CLEAN),
    'PNG, 16 bit, 8 used': (opencv(PIXELS.astype(np.uint16), '.png'), 'one colour of its uint16 values from 0 to 220'),
    'PNG, grey, 12 of 16 bit': (opencv(GREY.astype(np.uint16) * 16, '.png'), 'nearly black'),
    'TIFF, 16 bit, 8 used': (saved(Image.fromarray(GREY.astype(np.uint16)), 'TIFF'), 'one colour of'),
    'TIFF, floats': (
        saved(Image.fromarray(GREY.astype(np.float32)), 'TIFF'),
        'OpenCV, .* cannot decode this TIFF',
    ),
    'TIFF, 32 bit': (saved(Image.fromarray(GREY.astype(np.int32)), 'TIFF'), 'OpenCV, .* cannot decode this TIFF'),
    'TGA': (saved(PICTURE, 'TGA'), r'OpenCV, .* cannot decode this TGA \(RGB\)'),
    'PCX': (saved(PICTURE, 'PCX'), 'cannot decode this PCX'),
    'ICO': (saved(PICTURE, 'ICO'), 'cannot decode this ICO'),
    'HEIF': (b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + bytes(64), 'its format is not recognised'),
    'GIF, moving': (saved(PICTURE, 'GIF', **FRAMES), 'holds 2 frames'),
    'PNG, moving': (saved(PICTURE, 'PNG', **FRAMES), 'holds 2 frames'),
    'TIFF of two pages': (saved(PICTURE, 'TIFF', **FRAMES), 'holds 2 frames'),
    'BMP, cut off': (saved(PICTURE, 'BMP')[:-2000], 'cannot decode this BMP'),
    'WebP, cut off': (saved(PICTURE, 'WEBP')[:-40], 'not a readable image'),
    'TIFF, cut off': (saved(PICTURE, 'TIFF')[:-2000], 'not a readable image'),
}


@pytest.mark.parametrize('full', [False, True])
@pytest.mark.parametrize('name', IMAGES)
def test_image(tmp_path, name, full):
    data, words = IMAGES[name]
    path = tmp_path / 'image'
    path.write_bytes(data)
    facts = inspect_image(str(path), decode=full)
    if words is CLEAN:
        assert not facts.fault and not facts.warning
        assert facts.size == mmcv.imfrombytes(data).shape[1::-1]
    else:
        with pytest.raises(ValueError, match=words):
            raise ValueError(f'{facts.fault}; {facts.warning}')


def test_larger_than_pillow_allows(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    path = tmp_path / 'large.png'
    path.write_bytes(saved(PICTURE, 'PNG'))
    assert inspect_image(str(path))[1:3] == ((60, 40), None)
    assert 'could be decompression bomb' in inspect_image(str(path), reader=ImageReader('pillow')).fault


@pytest.mark.parametrize(
    ('reader', 'name', 'words'),
    [
        (ImageReader('pillow'), 'TGA', None),
        (ImageReader('pillow'), 'TIFF, floats', None),
        (ImageReader('pillow'), 'PNG, grey, 12 of 16 bit', 'cuts its uint16 values'),
        (ImageReader('pillow'), 'WebP, turned', None),
        (ImageReader('cv2', 'unchanged'), 'JPEG, turned', None),
        (ImageReader('cv2', 'color_ignore_orientation'), 'JPEG, turned', None),
        (ImageReader(None), 'TIFF, floats', None),
    ],
)
def test_other_readers(tmp_path, reader, name, words):
    data, _ = IMAGES[name]
    path = tmp_path / 'image'
    path.write_bytes(data)
    facts = inspect_image(str(path), reader=reader)
    if words:
        assert words in f'{facts.fault}; {facts.warning}'
    else:
        assert not facts.fault and not facts.warning
    if reader.backend:
        assert facts.size == reader.decode(data).shape[1::-1]


def test_reader_of_a_pipeline():
    load = dict(type='LoadImageFromFile', imdecode_backend='pillow', color_type='grayscale')
    nested = [dict(type='mmcv.TransformBroadcaster', transforms=[dict(load, type='mmcv.LoadImageFromFile')])]
    assert ImageReader.of([load]) == ImageReader.of(nested) == ImageReader('pillow', 'grayscale')
    assert ImageReader.of([dict(type='LoadImageFromFile'), load]) == ImageReader.of(None) == ImageReader()
    assert ImageReader.of([dict(type='LoadMultiChannelImageFromFiles')]).backend is None
