"""Each fault of a COCO data set gets a line that names file and cause."""

import copy
import json
import random
from pathlib import Path

import pytest
from PIL import Image

from mmbackbones.errors import InputError
from tests.datasets.check.cases import (
    ANN,
    JPEG,
    PICTURES,
    annotation,
    coco_cfg,
    cut,
    edit,
    image,
    look,
    put,
    redraw,
)

pytestmark = pytest.mark.promise('data-check')


def crowd(**values):
    return edit(lambda content: content['annotations'][0]['segmentation'].update(values))


def swap(items: list) -> None:
    items[0], items[1] = items[1], items[0]


COCO_FAULTS = {
    'annotation file missing': (put(ANN, None), 'no such annotation file'),
    'annotation file empty': (put(ANN, b''), r'empty \(0 bytes\)'),
    'annotation file malformed': (put(ANN, b'{"images": [1, 2'), 'malformed JSON'),
    'annotation file truncated': (cut(ANN, 0.5), 'malformed JSON'),
    'annotation file not UTF-8': (put(ANN, b'\xff\xfe\x00'), r'byte order mark \(UTF-16\)'),
    'annotation file too deep': (put(ANN, b'[' * 100_000), 'malformed JSON'),
    'annotation file a list': (put(ANN, b'[]'), 'is a JSON object, not a list'),
    'image folder missing': (put(PICTURES, None), 'no such folder of images'),
    'no images': (edit(lambda content: content.update(images=[])), "'images' is empty"),
    'no annotations': (edit(lambda content: content.update(annotations=[])), "'annotations' is empty"),
    'annotations absent': (edit(lambda content: content.pop('annotations')), "'annotations' is missing"),
    'categories a dict': (edit(lambda content: content.update(categories={'a': 1})), "'categories' is not a list"),
    'category renamed': (
        edit(lambda content: content['categories'][0].update(name='cirlce')),
        r"1 of the data set's 3 classes: \['circle'\]; did you mean 'cirlce'\?",
    ),
    'categories in another order': (
        edit(lambda content: swap(content['categories'])),
        r"order \['square', 'circle', 'triangle'\].*wrong names",
    ),
    'category id twice': (edit(lambda content: content['categories'][0].update(id=2)), 'category id 2 occurs 2 times'),
    'category without name': (edit(lambda content: content['categories'][0].pop('name')), r'categories\[0\] needs'),
    'category unknown': (annotation(category_id=77), 'annotation 2: category_id 77 is not among'),
    'image unknown': (annotation(image_id=4711), 'annotation 2: image_id 4711 is not among'),
    'image id a list': (annotation(image_id=[1]), r'annotation 2: image_id \[1\] is not among'),
    'image id twice': (image(id=1), 'image id 1 occurs twice'),
    'image without name': (image(file_name=None), r'images\[1\]: "file_name" is None'),
    'image without height': (edit(lambda content: content['images'][1].pop('height')), r'images\[1\]: "height"'),
    'image no object': (edit(lambda content: content['images'].append(7)), r'images\[3\]: an object was expected'),
    'annotation id twice': (annotation(id=1), 'annotation 1: the id occurs twice'),
    'annotation no object': (edit(lambda content: content['annotations'].append(7)), r'annotations\[\d+\] needs an'),
    'box NaN': (annotation(bbox=[float('nan'), 1, 10, 10]), r'annotation 2: bbox \[nan, 1, 10, 10\] is not four'),
    'box infinite': (annotation(bbox=[1, 1, float('inf'), 10]), r'is not four finite'),
    'box of text': (annotation(bbox=['1', 1, 10, 10]), r'is not four finite'),
    'box of three': (annotation(bbox=[1, 1, 10]), r'is not four finite'),
    'box absent': (edit(lambda content: content['annotations'][1].pop('bbox')), r'bbox None is not four finite'),
    'box negative': (annotation(bbox=[50, 50, -10, 10]), r'bbox \[50, 50, -10, 10\] has a negative size'),
    'box outside': (annotation(bbox=[500, 500, 10, 10]), r'lies outside its image of \d+x\d+ px'),
    'area absent': (edit(lambda content: content['annotations'][1].pop('area')), 'area is None'),
    'area NaN': (annotation(area=float('nan')), 'area is nan'),
    'segmentation empty': (annotation(segmentation=[]), 'annotation 2: the segmentation is empty'),
    'polygon too short': (annotation(segmentation=[[1, 2, 3, 4]]), 'no polygon of three points'),
    'polygon NaN': (annotation(segmentation=[[1, 2, 3, 4, 5, float('nan')]]), 'is not a list of finite numbers'),
    'polygon of text': (annotation(segmentation=[['a'] * 6]), 'is not a list of finite numbers'),
    'polygon far away': (annotation(segmentation=[[1, 2, 3, 4, 5, 1e8]]), 'lies far outside'),
    'segmentation a number': (annotation(segmentation=7), 'polygons or RLE were expected'),
    'RLE of another size': (crowd(size=[7, 7]), r'RLE of size \[7, 7\]'),
    'RLE too short': (crowd(counts=[5, 5]), 'RLE counts add up to 10'),
    'RLE negative': (crowd(counts=[5, -5]), 'RLE counts are not whole numbers'),
    'RLE without counts': (crowd(counts=None), 'RLE counts are None'),
    'image missing': (put(JPEG, None), 'no such file'),
    'image empty': (put(JPEG, b''), r'empty \(0 bytes\)'),
    'image truncated': (cut(JPEG, 0.9), 'truncated: the end marker of a JPEG'),
    'image of text': (put(JPEG, b'<html>not found</html>'), 'not a readable image'),
    'image only a header': (cut(JPEG, 0.01), 'not a readable image'),
    'image of another size': (redraw(JPEG, lambda pixels: pixels[:-8]), r'is \d+x\d+ px, but .*json says \d+x\d+'),
}


@pytest.mark.parametrize('name', COCO_FAULTS)
def test_coco_fault(data, name):
    spoil, message = COCO_FAULTS[name]
    file = spoil(data / 'coco')
    report = look(coco_cfg(data / 'coco'))
    with pytest.raises(InputError, match=message) as caught:
        report.require_clean()
    assert str(caught.value).startswith(str(data / 'coco' / file)) and '\n' not in str(caught.value)


def test_all_faults_at_once(data):
    spoils = ['category unknown', 'box outside', 'RLE too short', 'image truncated']
    for name in spoils:
        COCO_FAULTS[name][0](data / 'coco')
    report = look(coco_cfg(data / 'coco'))
    assert [fault.kind for fault in report.faults] == ['image', 'segmentation', 'unknown category', 'box']
    with pytest.raises(InputError, match=r'\(and 3 more faults, 2 files in all; tools/analysis/check_dataset.py'):
        report.require_clean()


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (annotation(bbox=[5, 5, 10, 0]), 'smaller than a pixel'),
        (annotation(area=0), 'area is 0'),
        (annotation(bbox=[-40, 5, 80, 20]), 'reaches beyond'),
        (
            edit(lambda content: content['categories'].append(dict(id=4, name='star'))),
            r"no class of the data set.*'star'",
        ),
    ],
)
def test_what_the_framework_drops_is_a_warning(data, spoil, message):
    spoil(data / 'coco')
    report = look(coco_cfg(data / 'coco'))
    assert not report.faults and len(report.warnings) == 1
    assert message.split('.*')[0] in str(report.warnings[0])


def test_detection_alone_needs_no_masks(data):
    annotation(segmentation=[])(data / 'coco')
    boxes = [dict(type='LoadAnnotations', with_bbox=True)]
    assert not look(coco_cfg(data / 'coco', pipeline=boxes)).faults
    assert look(coco_cfg(data / 'coco')).faults


def test_test_set_without_annotations(data):
    edit(lambda content: content.pop('annotations'))(data / 'coco')
    report = look(coco_cfg(data / 'coco', test_mode=True))
    assert not report.faults and 'nothing can be scored' in str(report.warnings[0])


def test_full_decodes(data):
    annotation(segmentation=[[5.0, 5.0] * 4])(data / 'coco')
    name = JPEG.replace('.jpg', '.png')
    image(file_name=Path(name).name)(data / 'coco')
    with Image.open(data / 'coco' / JPEG) as picture:
        picture.save(data / 'coco' / name)
    spoilt = bytearray((data / 'coco' / name).read_bytes())
    spoilt[len(spoilt) // 2] ^= 0xFF
    (data / 'coco' / name).write_bytes(spoilt)
    plain, full = (look(coco_cfg(data / 'coco'), full=full) for full in (False, True))
    assert not plain.faults and not plain.warnings
    assert 'not a readable image' in str(full.faults[0]) and 'decodes to no pixel' in str(full.warnings[0])


def test_bytes_after_the_end_marker_are_harmless(data):
    for tail in (b'\0\0', b'trailing words'):
        with (data / 'coco' / JPEG).open('ab') as file:
            file.write(tail)
        assert not look(coco_cfg(data / 'coco')).faults


def test_exif_orientation_turns_the_size(data):
    import mmcv

    path = data / 'coco' / JPEG
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as picture:
        width, height = picture.size
        picture.load()
    assert width != height
    picture.save(path, exif=exif)
    assert mmcv.imread(str(path)).shape[:2] == (width, height)
    assert 'is 144x160 px' in str(look(coco_cfg(data / 'coco')).faults[0])
    image(width=height, height=width)(data / 'coco')
    assert not look(coco_cfg(data / 'coco')).faults


def test_junk_in_annotations_never_crashes(data):
    random.seed(0)
    sound = json.loads((data / 'coco' / ANN).read_text())
    junk = [
        None,
        True,
        -1,
        0,
        1e308,
        float('nan'),
        10**30,
        '',
        '\ud800',
        'a\nb',
        '\0',
        'x' * 999,
        [],
        {},
        [[]],
        [{}],
        {'size': 1},
    ]

    def spoil(node) -> None:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        if not keys:
            return
        key = random.choice(list(keys))
        if isinstance(node[key], dict | list) and node[key] and random.random() < 0.85:
            spoil(node[key])
        else:
            node[key] = random.choice(junk)

    for _ in range(150):
        content = copy.deepcopy(sound)
        for _ in range(random.randint(1, 4)):
            spoil(content)
        (data / 'coco' / ANN).write_text(json.dumps(content))
        for fault in look(coco_cfg(data / 'coco'), full=True).faults:
            assert '\n' not in str(fault) and len(str(fault)) < 1500
            str(fault).encode()
