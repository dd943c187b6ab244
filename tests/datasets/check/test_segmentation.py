"""Each fault of an ADE20K data set gets a line that names file and cause."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from mmbackbones.datasets.check.image_reader import EXIF_ORIENTATION
from mmbackbones.errors import InputError
from tests.datasets.check.cases import IMAGES, MASKS, PHOTO, PNG, cut, look, put, redraw, seg_cfg, with_label

pytestmark = pytest.mark.promise('data-check')


def saved(name: str, change, file_format: str = 'PNG', **options):
    """The image of a file, changed by Pillow."""

    def spoil(folder):
        with Image.open(folder / name) as image:
            data = io.BytesIO()
            change(image).save(data, file_format, **options)
        return put(name, data.getvalue())(folder)

    return spoil


def renamed(*names: tuple[str, str]):
    def spoil(folder):
        for old, new in names:
            (folder / old).rename(folder / new)
        return names[0][1]

    return spoil


def turned(orientation: int, crop=None):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return saved(PHOTO, lambda image: image.crop(crop) if crop else image.copy(), 'JPEG', exif=exif)


def square(*spoils):
    """Image and mask cut to a square, then changed."""

    def spoil(folder):
        for name, file_format in ((PHOTO, 'JPEG'), (PNG, 'PNG')):
            saved(name, lambda image: image.crop((0, 0, 96, 96)), file_format)(folder)
        for change in spoils:
            change(folder)
        return PHOTO

    return spoil


def halves(image: Image.Image) -> Image.Image:
    """A mask of two labels that a JPEG keeps as they are."""
    image = image.point(lambda label: 2)
    image.paste(3, (0, 0, 64, image.height))
    return image


def palette(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putpalette([9, 90, 200] * 256)
    return image


SEG_FAULTS = {
    'image folder missing': (put(IMAGES, None), 'no such folder of images', IMAGES),
    'mask folder missing': (put(MASKS, None), 'no such folder of masks', MASKS),
    'mask missing': (put(PNG, None), r'missing: .*ADE_train_00000002.jpg has no mask', PNG),
    'mask empty': (put(PNG, b''), r'empty \(0 bytes\)', PNG),
    'mask truncated': (cut(PNG, 0.7), 'not a readable mask', PNG),
    'mask of text': (put(PNG, b'404'), 'not a readable mask', PNG),
    'mask of another size': (redraw(PNG, lambda labels: labels[:-8]), r'its image .*ADE_train_00000002.jpg', PNG),
    'mask in colours': (redraw(PNG, lambda labels: np.stack([labels] * 3, -1)), 'its mode is RGB', PNG),
    'mask with alpha': (saved(PNG, lambda image: image.convert('RGBA')), 'its mode is RGBA', PNG),
    'mask in grey with alpha': (saved(PNG, lambda image: image.convert('LA')), 'its mode is LA', PNG),
    'mask in CMYK': (saved(PNG, lambda image: image.convert('CMYK'), 'TIFF'), 'its mode is CMYK', PNG),
    'mask of fractions': (
        saved(PNG, lambda image: image.convert('F').point(lambda label: label * 0.5 + 0), 'TIFF'),
        'it holds fractions such as 0.5',
        PNG,
    ),
    'mask of one row': (saved(PNG, lambda image: image.crop((0, 0, 9, 1))), 'is 9x1 px: mmseg cannot load', PNG),
    'mask as a JPEG': (
        saved(PNG, lambda image: image.point(lambda label: label * 60), 'JPEG', quality=30),
        'label .* is outside 0 to 4 .*; the mask is a JPEG, whose lossy compression changes labels',
        PNG,
    ),
    'label too high': (redraw(PNG, with_label(5)), r'label 5 \(6 pixels\) is outside 0 to 4 for the 4 classes', PNG),
    'label too high, 16 bit': (redraw(PNG, lambda labels: with_label(300)(labels.astype(np.uint16))), 'label 300', PNG),
    'image missing': (put(PHOTO, None), r'missing: .*ADE_train_00000002.png has no image', PHOTO),
    'image empty': (put(PHOTO, b''), r'empty \(0 bytes\)', PHOTO),
    'image truncated': (cut(PHOTO, 0.9), 'truncated: the end marker of a JPEG', PHOTO),
    'image turned': (turned(6, (0, 0, 96, 80)), r'its image .* 80x96, turned by its EXIF orientation 6', PNG),
    'image in upper case': (
        renamed((PHOTO, PHOTO.replace('.jpg', '.JPG'))),
        r"has no image; ADE_train_00000002.JPG stands there, but img_suffix='.jpg'",
        PHOTO,
    ),
    'mask in upper case': (
        renamed((PNG, PNG.replace('.png', '.PNG'))),
        r"has no mask; ADE_train_00000002.PNG stands there, but seg_map_suffix='.png'",
        PNG,
    ),
    'mask with another suffix': (
        renamed((PNG, PNG.replace('.png', '.tif'))),
        r"has no mask; ADE_train_00000002.tif stands there, but seg_map_suffix='.png'",
        PNG,
    ),
}


@pytest.mark.parametrize('name', SEG_FAULTS)
def test_segmentation_fault(data, name):
    spoil, message, file = SEG_FAULTS[name]
    spoil(data / 'ade20k')
    with pytest.raises(InputError, match=message) as caught:
        look(seg_cfg(data / 'ade20k')).require_clean()
    assert str(caught.value).startswith(str(data / 'ade20k' / file)) and '\n' not in str(caught.value)


SEG_WARNINGS = {
    'images and masks in upper case': (
        renamed((PHOTO, PHOTO.replace('.jpg', '.JPG')), (PNG, PNG.replace('.png', '.PNG'))),
        [
            r"00000002.JPG: the image is left out: its suffix is not img_suffix='.jpg'",
            r"00000002.PNG: the mask is left out: its suffix is not seg_map_suffix='.png'",
        ],
    ),
    'images of another format': (
        renamed((PHOTO, PHOTO.replace('.jpg', '.jpeg')), (PNG, PNG.replace('.png', '.PNG'))),
        [r'00000002.jpeg: the image is left out', r'00000002.PNG: the mask is left out'],
    ),
    'mask as a JPEG': (
        saved(PNG, halves, 'JPEG', quality=100),
        ['the mask is a JPEG'],
    ),
    'image upside down': (
        turned(3),
        [r'00000002.jpg: the image is turned by its EXIF orientation 3 .*its mask .* is not'],
    ),
    'square image turned': (square(turned(6)), ['turned by its EXIF orientation 6']),
    'mask of ignored pixels': (
        redraw(PNG, lambda labels: labels // 255 * 255),
        [r'00000002.png: every pixel of the mask is ignored \(label 0\)'],
    ),
    'palette': (saved(PNG, palette), []),
    'one bit': (saved(PNG, lambda image: image.point(lambda label: 255 * (label > 0)).convert('1')), []),
    '16 bits': (redraw(PNG, lambda labels: labels.astype(np.uint16)), []),
    '32 bits': (saved(PNG, lambda image: image.convert('I'), 'TIFF'), []),
    'whole numbers as floating point': (saved(PNG, lambda image: image.convert('F'), 'TIFF'), []),
    'strange files': (put(f'{IMAGES}/Thumbs.db', b'x'), []),
    'hidden files': (put(f'{IMAGES}/._ADE_train_00000002.JPG', b'x'), []),
    'coloured masks beside the masks': (put(f'{MASKS}/ADE_train_00000002_color.tif', b'x'), []),
}


@pytest.mark.parametrize('name', SEG_WARNINGS)
def test_segmentation_warning(data, name):
    spoil, messages = SEG_WARNINGS[name]
    spoil(data / 'ade20k')
    for cached in (False, True):
        report = look(seg_cfg(data / 'ade20k'))
        assert report.cached == cached and not report.faults and len(report.warnings) == len(messages), report
        assert all(re.search(words, str(warning)) for words, warning in zip(messages, report.warnings))


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (saved(PNG, palette), r"imdecode_backend='cv2' reads it as \d+ x \d+ x 3"),
        (saved(PNG, lambda image: image.point(lambda label: 255 * (label > 0)).convert('1')), None),  # 0 and 255
        (put(PNG, b'404'), 'not a readable mask: cv2 cannot decode it'),
        (redraw(PNG, with_label(5)), 'label 5 '),
    ],
)
def test_masks_as_the_pipeline_loads_them(data, spoil, message):
    spoil(data / 'ade20k')
    load = dict(type='LoadAnnotations', imdecode_backend='cv2')
    report = look(seg_cfg(data / 'ade20k', pipeline=[dict(type='RandomApply', transforms=[load])]))
    assert bool(report.faults) == bool(message) and (not message or re.search(message, str(report.faults[0])))
    assert message or 255 in report.labels


def test_empty_folder(data):
    for path in (data / 'ade20k' / IMAGES).iterdir():
        path.unlink()
    faults = look(seg_cfg(data / 'ade20k')).faults
    assert 'holds no *.jpg file' in str(faults[0])
    assert len(faults) == 4  # and three masks without image


def test_labels_without_reduced_zero(data):
    cfg = seg_cfg(data / 'ade20k', reduce_zero_label=False)
    assert 'label 4 ' in str(look(cfg).faults[0])
    redraw(PNG, with_label(255))(data / 'ade20k')
    assert not look(seg_cfg(data / 'ade20k')).faults


def test_subset_of_the_classes_keeps_the_labels_of_all(data):
    cfg = dict(type='ADE20KDataset', data_root=str(data / 'ade20k'), data_prefix=seg_cfg(data)['data_prefix'])
    redraw(PNG, with_label(150))(data / 'ade20k')
    assert not look(dict(cfg, metainfo=dict(classes=('wall', 'sky')))).faults
    redraw(PNG, with_label(151))(data / 'ade20k')
    assert 'label 151 (6 pixels) is outside 0 to 150 for the 150 classes' in str(look(cfg).faults[0])
    with pytest.raises(InputError, match=r'ADE20KDataset .*not a subset'):
        look(dict(cfg, metainfo=dict(classes=('circle',))))


def test_list_of_names(data):
    names = data / 'ade20k' / 'names.txt'
    names.write_text('ADE_train_00000001\nADE_train_00000009\n')
    report = look(seg_cfg(data / 'ade20k', ann_file='names.txt'))
    assert report.images == 2
    assert [fault.file[-22:] for fault in report.faults] == ['ADE_train_00000009.jpg', 'ADE_train_00000009.png']
    names.write_text('')
    cfg = seg_cfg(data / 'ade20k', ann_file='names.txt')
    assert 'names.txt: the list of names is empty' in str(look(cfg).faults[0])
    names.unlink()
    assert 'names.txt: no such list' in str(look(cfg).faults[0])


NAMES = ('ADE_train_00000001', 'ADE_train_00000002')
LISTS = {
    'lines of Windows': ('\r\n'.join(NAMES) + '\r\n', None),
    'no end of line': ('\n'.join(NAMES), None),
    'suffixes': (
        '\n'.join(f'{name}.jpg' for name in NAMES),
        r"names.txt lists names without suffix, img_suffix='.jpg' is added",
    ),
    'blank line': ('\n\n'.join(NAMES), 'line 2 is blank'),
    'blank line at the end': ('\n'.join(NAMES) + '\n \n', 'line 3 is blank'),
    'lines of old Macs': ('\r'.join(NAMES), None),
    'byte order mark': ('\ufeff' + '\n'.join(NAMES), 'names.txt: starts with a byte order mark'),
    'two columns': ('\n'.join(f'{name} {name}' for name in NAMES), 'no such file'),
    'blanks alone': ('\n \n', 'the list of names is empty'),
}


@pytest.mark.parametrize('name', LISTS)
def test_list_as_mmseg_reads_it(data, name):
    text, message = LISTS[name]
    (data / 'ade20k/names.txt').write_bytes(text.encode())
    report = look(seg_cfg(data / 'ade20k', ann_file='names.txt'))
    if message is None:
        assert not report.faults and not report.warnings and report.images == 2
    else:
        assert re.search(message, str(report.faults[0])) and '\n' not in str(report.faults[0])


def test_list_in_another_encoding(data):
    (data / 'ade20k/names.txt').write_bytes('\n'.join(NAMES).encode('utf-16'))
    assert 'not a readable list' in str(look(seg_cfg(data / 'ade20k', ann_file='names.txt')).faults[0])


def test_equal_names_in_folders(data):
    for clip in ('a', 'b'):
        for folder, old in ((IMAGES, PHOTO), (MASKS, PNG)):
            (data / 'ade20k' / folder / clip).mkdir()
            put(f'{folder}/{clip}/000{old[-4:]}', (data / 'ade20k' / old).read_bytes())(data / 'ade20k')
    report = look(seg_cfg(data / 'ade20k'))
    assert report.images == 5 and not report.faults and not report.warnings
    put(f'{MASKS}/b/000.png', None)(data / 'ade20k')
    assert [fault.item for fault in look(seg_cfg(data / 'ade20k')).faults] == [('images', 'b/000')]


def test_classes_as_a_text(data):
    with pytest.raises(InputError, match=r"metainfo.classes='object' is a text, .* with a comma"):
        look(seg_cfg(data / 'ade20k', metainfo=dict(classes='object')))
