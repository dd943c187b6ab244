"""What the frameworks would misread, drop or stop at is named before a run; what is clean they read rightly.

Each case changes a sound data set. It has words that the check must say, or none: then mmdet must keep every object,
and pycocotools must give perfect predictions an AP of 1.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from PIL import Image
from pycocotools import mask as mask_api

from mmbackbones.datasets.check import inspect_config

pytestmark = pytest.mark.promise('data-check')

SIDE = 96
NAMES = ('disc', 'box')
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape', 'instances')),
]


def sound_content() -> dict:
    """Three images with two squares each."""
    images = [dict(id=i, file_name=f'{i}.png', width=SIDE, height=SIDE) for i in (1, 2, 3)]
    annotations = []
    for number in range(6):
        x, y, side = 5.0 + 7 * number, 50.0 - 6 * number, 30.0 + number
        corners = [x, y, x + side, y, x + side, y + side, x, y + side]
        annotations.append(
            dict(
                id=number + 1,
                image_id=number // 2 + 1,
                category_id=number % 2 + 1,
                bbox=[x, y, side, side],
                area=side * side,
                iscrowd=0,
                segmentation=[corners],
            )
        )
    return dict(
        images=images, annotations=annotations, categories=[dict(id=i + 1, name=n) for i, n in enumerate(NAMES)]
    )


def config(folder: Path, score_from_file: bool = True, metric=('bbox', 'segm'), **train) -> ConfigDict:
    dataset = dict(
        type='CocoDataset',
        data_root=str(folder),
        ann_file='all.json',
        data_prefix=dict(img='.'),
        metainfo=dict(classes=NAMES),
        pipeline=PIPELINE,
    )
    evaluator = dict(type='CocoMetric', metric=list(metric))
    if score_from_file:
        evaluator['ann_file'] = str(folder / 'all.json')
    filter_cfg = dict(filter_empty_gt=True, min_size=32)
    return ConfigDict(
        default_scope='mmdet',
        train_dataloader=dict(dataset=dict(dataset, filter_cfg=filter_cfg) | train),
        test_dataloader=dict(dataset=dict(dataset, test_mode=True)),
        test_evaluator=evaluator,
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in '123':
        Image.new('RGB', (SIDE, SIDE), (int(name) * 60, 100, 140)).save(tmp_path / f'{name}.png')
    return tmp_path


def each(kind: str, **values):
    """Every record of a list gets these values; a function makes one of the old value, None removes it."""

    def change(content: dict) -> None:
        for record in content[kind]:
            for key, value in values.items():
                if value is None:
                    record.pop(key)
                else:
                    record[key] = value(record[key]) if callable(value) else value

    return change


def objects(**values):
    return each('annotations', **values)


def null(key: str):
    return lambda content: [record.update({key: None}) for record in content['annotations']]


def rename_ids(kind: str, reference: str | None, rename):
    def change(content: dict) -> None:
        each(kind, id=rename)(content)
        if reference:
            objects(**{reference: rename})(content)

    return change


def polygon(place: int, length: int):
    """Every object gets another polygon."""

    def change(content: dict) -> None:
        for record in content['annotations']:
            record['segmentation'] *= 2
            record['segmentation'].insert(place, [7.0, 7.0, 9.0, 9.0, 7.0, 9.0, 8.0][:length])

    return change


def rle(compress: bool, crowd: int):
    def change(content: dict) -> None:
        for record in content['annotations']:
            mask = mask_api.decode(mask_api.merge(mask_api.frPyObjects(record['segmentation'], SIDE, SIDE)))
            flat = mask.flatten(order='F')
            edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]])))
            found = dict(size=[SIDE, SIDE], counts=np.diff(np.concatenate([[0], edges])).tolist())
            if compress:
                found = mask_api.encode(np.asfortranarray(mask))
                found['counts'] = found['counts'].decode()
            record.update(segmentation=found, iscrowd=crowd)

    return change


def fractions(content: dict) -> None:
    for record in content['annotations']:
        record['bbox'] = [value / SIDE for value in record['bbox']]
        record['area'] /= SIDE**2
        record['segmentation'] = [[value / SIDE for value in part] for part in record['segmentation']]


def corners(box: list) -> list:
    x, y, width, height = box
    return [x, y, x + width, y + height]


def both(*changes):
    def change(content: dict) -> None:
        for each_change in changes:
            each_change(content)

    return change


def small_images(content: dict) -> None:
    each('images', width=28, height=28)(content)
    for record in content['annotations']:
        record['bbox'] = [value / 4 for value in record['bbox']]
        record['segmentation'] = [[value / 4 for value in part] for part in record['segmentation']]


CLEAN = None
CASES = {
    'sound': (lambda content: None, CLEAN),
    'iscrowd absent': (objects(iscrowd=None), 'annotation 1 and 5 more: no "iscrowd"'),
    'iscrowd null': (null('iscrowd'), 'annotation 1 and 5 more: no "iscrowd"'),
    'iscrowd false': (objects(iscrowd=False), CLEAN),
    'iscrowd 0.0': (objects(iscrowd=0.0), CLEAN),
    'iscrowd a text': (objects(iscrowd='0'), "iscrowd is '0', 0 or 1 was expected"),
    'iscrowd 2': (objects(iscrowd=2), 'iscrowd is 2, 0 or 1 was expected'),
    'iscrowd a list': (objects(iscrowd=[]), r'iscrowd is \[\], 0 or 1 was expected'),
    'iscrowd true': (objects(iscrowd=True), 'no object is left to train on, of all 6: 6 crowds'),
    'all crowds, RLE': (rle(False, 1), 'no object is left to score against, of all 6: 6 crowds'),
    'ignore': (objects(ignore=1), 'ignore is 1; the object is dropped'),
    'ignore a text': (objects(ignore='no'), "ignore is 'no', 0 or 1 was expected"),
    'area null': (null('area'), 'area is None'),
    'area a text': (objects(area='900'), "area is '900'"),
    'area 0': (objects(area=0), 'no object is left to train on, of all 6: 6 with a bbox smaller than a pixel, or with'),
    'bbox null': (null('bbox'), 'bbox None is not four finite numbers'),
    'bbox nested': (objects(bbox=lambda box: [box]), 'is not four finite numbers'),
    'bbox corners': (objects(bbox=corners), r'corners \(x1, y1, x2, y2\): \(x, y, width, height\) is expected'),
    'bbox corners, no polygons': (
        both(objects(bbox=corners), rle(True, 0)),
        r'corners \(x1, y1, x2, y2\): .*; 5 of 6 reach beyond their images',
    ),
    'bbox fractions': (fractions, 'bbox of all 6 objects lies between 0 and 1: pixels are expected'),
    'bbox centres': (
        objects(bbox=lambda box: [box[0] + 60, box[1] + 60, *box[2:]]),
        'lies outside|bbox and segmentation lie apart|reaches beyond',
    ),
    'polygons fractions': (
        objects(segmentation=lambda parts: [[value / SIDE for value in part] for part in parts]),
        'polygons lie between 0 and 1',
    ),
    'annotation ids from 0': (rename_ids('annotations', None, lambda i: i - 1), 'annotation id 0: .* number .* from 1'),
    'annotation ids texts': (
        rename_ids('annotations', None, lambda i: f'3f2a-{i}'),
        "annotation '3f2a-1' and 5 more: annotation ids for scoring are whole numbers",
    ),
    'annotation ids texts of digits': (rename_ids('annotations', None, str), "annotation '1' and 5 more"),
    'annotation ids negative': (rename_ids('annotations', None, lambda i: -i), 'annotation -1 and 5 more'),
    'annotation ids null': (null('id'), r'annotations\[0\] needs an "id"'),
    'annotation ids equal': (objects(id=7), 'annotation 7: the id occurs twice'),
    'annotation ids large': (rename_ids('annotations', None, lambda i: i + 2**60), CLEAN),
    'image ids from 0': (rename_ids('images', 'image_id', lambda i: i - 1), CLEAN),
    'image ids texts': (rename_ids('images', 'image_id', lambda i: f'a-{i}'), "image 'a-1' and 2 more: image ids"),
    'image ids mixed': (rename_ids('images', 'image_id', lambda i: str(i) if i == 2 else i), "image '2': image ids"),
    'image ids of another type': (objects(image_id=str), "image_id '1' is not among"),
    'category ids from 0': (rename_ids('categories', 'category_id', lambda i: i - 1), CLEAN),
    'category ids texts': (rename_ids('categories', 'category_id', str), "category '1' and 1 more: category ids"),
    'category ids of another type': (objects(category_id=str), "category_id '1' is not among"),
    'category ids null': (null('category_id'), 'category_id None is not among'),
    'a class never occurs': (objects(category_id=1), r"no object to train on for 1 of 2 classes: \['box'\]"),
    'an image record twice': (
        lambda content: content['images'].append(dict(content['images'][0], id=9)),
        "file_name '1.png' is in 2 image records",
    ),
    'width a text': (each('images', width='96'), '"width" of 1.png is \'96\''),
    'width absent': (each('images', width=None), '"width" of 1.png is None'),
    'file_name in other case': (each('images', file_name=str.upper), r"1.PNG: no such file; there is '1.png' in"),
    'file_name with backslashes': (
        each('images', file_name=lambda name: f'.\\{name}'),
        r"no such file; there is '1.png' in",
    ),
    'images below min_size': (small_images, 'in images smaller than filter_cfg.min_size=32|is 96x96 px'),
    'polygon missing': (objects(segmentation=None), 'the segmentation is empty or missing'),
    'polygon null': (null('segmentation'), 'the segmentation is empty or missing'),
    'polygon not nested': (objects(segmentation=lambda parts: parts[0]), 'is not a list of finite numbers'),
    'polygon of points': (
        objects(segmentation=lambda parts: [[[x, y] for x, y in zip(parts[0][::2], parts[0][1::2])]]),
        'is not a list of finite numbers',
    ),
    'polygon all short': (objects(segmentation=[[5.0, 5.0, 9.0, 9.0]]), 'no polygon of three points'),
    'polygon odd': (polygon(1, 7), 'has an odd number of coordinates'),
    'RLE': (rle(True, 0), CLEAN),
    'RLE, uncompressed': (rle(False, 0), CLEAN),
    'RLE of another size': (
        both(rle(True, 0), objects(segmentation=lambda found: dict(found, size=[SIDE, 7]))),
        r'RLE of size \[96, 7\]',
    ),
    'RLE of junk': (objects(segmentation=dict(size=[SIDE, SIDE], counts='abc')), 'RLE counts stand for .* pixels'),
    'RLE, too short': (
        both(rle(True, 0), objects(segmentation=lambda found: dict(found, counts=found['counts'][:-2]))),
        r'RLE counts stand for (\d+|None) pixels, the image has 9216',
    ),
    'RLE of fractional size': (
        both(rle(True, 0), objects(segmentation=lambda found: dict(found, size=[96.0, 96.0]))),
        r'RLE of size \[96.0, 96.0\]',
    ),
} | {
    f'polygon {place} of {length // 2} points': (
        polygon(place, length),
        'the first polygon, .* has less than three points' if place == 0 else 'has less than three points; it is drop',
    )
    for place in (0, 1, 2)
    for length in (0, 2, 4)
}


def judge(cfg: ConfigDict) -> str:
    reports = inspect_config(cfg, ('train', 'test'), cache=False)
    found = [fault for group in reports.values() for report in group for fault in report.faults + report.warnings]
    assert all('\n' not in str(fault) for fault in found)
    return '\n'.join(map(str, found))


@pytest.mark.parametrize('name', CASES)
def test_misread_or_named(folder, name):
    change, words = CASES[name]
    content = sound_content()
    change(content)
    (folder / 'all.json').write_text(json.dumps(content))
    found = judge(config(folder))
    if words is CLEAN:
        assert not found
        assert learnt_and_scored(config(folder)) == (6, 1.0, 1.0)
    else:
        assert re.search(words, found) and str(folder) in found


def learnt_and_scored(cfg: ConfigDict) -> tuple[int, float, float]:
    """Objects that the pipeline gives to the training, and box and mask AP of perfect predictions."""
    from mmdet.registry import DATASETS, METRICS
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    train, test = (DATASETS.build(cfg[f'{split}_dataloader'].dataset) for split in ('train', 'test'))
    metric = METRICS.build(cfg.test_evaluator)
    metric.dataset_meta = test.metainfo
    for item in test:
        sample = item['data_samples']
        truth = sample.gt_instances
        predictions = dict(
            bboxes=truth.bboxes.tensor,
            scores=torch.full((len(truth),), 0.9),
            labels=truth.labels,
            masks=torch.tensor(truth.masks.masks).bool(),
        )
        metric.process({}, [dict(sample.metainfo, pred_instances=predictions)])
    scores = metric.evaluate(len(test))
    learnt = sum(len(item['data_samples'].gt_instances) for item in train)
    return learnt, scores['coco/bbox_mAP'], scores['coco/segm_mAP']


ENCODINGS = {
    'UTF-8 with BOM': (lambda text: text.encode('utf-8-sig'), r'byte order mark \(UTF-8\)'),
    'UTF-16': (lambda text: text.encode('utf-16'), r'byte order mark \(UTF-16\)'),
    'UTF-16 without BOM': (lambda text: text.encode('utf-16-le'), 'malformed JSON|is not .* text'),
    'UTF-32': (lambda text: text.encode('utf-32'), r'byte order mark \(UTF-32\)'),
    'Latin-1': (lambda text: text.replace('disc', 'dîsc').encode('latin-1'), 'is not UTF-8 text.*save it as UTF-8'),
    'JSON lines': (lambda text: f'{text}\n{text}\n'.encode(), 'one dict per line'),
    'a list': (lambda text: f'[{text}]'.encode(), 'is a JSON object, not a list'),
    'gzip': (lambda text: b'\x1f\x8b\x08\0' + text.encode(), 'is not UTF-8 text|malformed JSON'),
}


@pytest.mark.parametrize('name', ENCODINGS)
def test_encoding(folder, name):
    encode, words = ENCODINGS[name]
    (folder / 'all.json').write_bytes(encode(json.dumps(sound_content(), ensure_ascii=False)))
    found = judge(config(folder))
    assert re.search(words, found) and found.startswith(str(folder / 'all.json'))


def test_only_what_scores_makes_demands(folder):
    content = sound_content()
    both(objects(iscrowd=None), rename_ids('annotations', None, lambda i: i - 1))(content)
    (folder / 'all.json').write_text(json.dumps(content))
    assert 'annotation id 0' in judge(config(folder))
    assert not judge(config(folder, score_from_file=False))  # mmdet writes a file of its own, with ids from 1
    assert learnt_and_scored(config(folder, score_from_file=False)) == (6, 1.0, 1.0)
    each('images', id=lambda i: f'u-{i}')(content)
    objects(image_id=lambda i: f'u-{i}', id=lambda i: f'v-{i}')(content)
    (folder / 'all.json').write_text(json.dumps(content))
    assert not judge(config(folder, score_from_file=False))
    assert learnt_and_scored(config(folder, score_from_file=False)) == (6, 1.0, 1.0)
    polygon(0, 4)(content)  # that file has the polygons as they are
    (folder / 'all.json').write_text(json.dumps(content))
    assert 'the first polygon' in judge(config(folder, score_from_file=False))


def test_masks_for_a_mask_score_alone(folder):
    content = sound_content()
    objects(segmentation=None)(content)
    (folder / 'all.json').write_text(json.dumps(content))
    for metric, words in ((('bbox',), ''), (('bbox', 'segm'), 'the segmentation is empty or missing')):
        cfg = config(folder, metric=metric)
        for split in ('train', 'test'):
            cfg[f'{split}_dataloader'].dataset.pipeline = [dict(type='LoadAnnotations', with_bbox=True)]
        found = judge(cfg)
        assert words in found and bool(words) == bool(found)


def test_large_boxes_are_no_corners(folder):
    content = sound_content()
    both(rle(True, 0), objects(bbox=[5.0, 5.0, 80.0, 85.0]))(content)
    content['annotations'][0]['bbox'][2] = 95.0
    (folder / 'all.json').write_text(json.dumps(content))
    found = judge(config(folder)).splitlines()
    assert len(found) == 2 and all('annotation 1: bbox [5.0, 5.0, 95.0, 85.0] reaches beyond' in line for line in found)


def test_rle_with_polygons_alone(folder):
    content = sound_content()
    rle(True, 0)(content)
    (folder / 'all.json').write_text(json.dumps(content))
    pipeline = [dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False)]
    assert 'RLE masks, with poly2mask=False' in judge(config(folder, pipeline=pipeline))


def test_nothing_left_after_the_filter(folder):
    content = sound_content()
    for record, image in zip(content['images'], '123'):
        Image.new('RGB', (96, 30)).save(folder / f'{image}.png')
        record['height'] = 30
    content['annotations'] = [
        dict(record, bbox=[5, 5, 20, 20], area=400, segmentation=[[5, 5, 25, 5, 25, 25]])
        for record in content['annotations']
    ]
    (folder / 'all.json').write_text(json.dumps(content))
    assert 'no object is left to train on, of all 6: 6 in images smaller than filter_cfg.min_size=32' in judge(
        config(folder)
    )
    assert not judge(config(folder, filter_cfg=None))
