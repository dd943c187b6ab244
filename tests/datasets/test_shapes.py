"""The miniature data: reproducible, disjoint, consistent with itself, and read by mmdet and mmseg."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image
from pycocotools.coco import COCO
from scipy.ndimage import binary_dilation

from mmbackbones.datasets import shapes
from mmbackbones.datasets.shapes import ADE20K_METAINFO, COCO_METAINFO, MANIFEST, write_shapes
from mmbackbones.errors import InputError


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob('*')
        if path.is_file()
    }


@pytest.fixture(scope='module')
def small(tmp_path_factory) -> Path:
    return write_shapes(tmp_path_factory.mktemp('shapes') / 'data', seed=3, train=12, val=6)


def test_same_seed_same_bytes(small, tmp_path):
    again = write_shapes(tmp_path / 'elsewhere', seed=3, train=12, val=6)
    other = write_shapes(tmp_path / 'other', seed=4, train=12, val=6)
    assert digests(again) == digests(small)
    jpegs = [{h for name, h in digests(folder).items() if name.endswith('.jpg')} for folder in (small, other)]
    assert not jpegs[0] & jpegs[1]


def test_defaults_are_disjoint(tmp_path):
    found = digests(write_shapes(tmp_path / 'data'))
    train, val = (
        {digest for name, digest in found.items() if name.startswith(f'coco/{split}2017/')}
        for split in ('train', 'val')
    )
    assert (len(train), len(val)) == (200, 50)
    assert not train & val


def test_overlap_of_the_splits_is_noticed(tmp_path, monkeypatch):
    scene = shapes._scene
    monkeypatch.setattr(shapes, '_scene', lambda rng, kind: scene(np.random.default_rng(0), kind))
    with pytest.raises(AssertionError, match='both training and validation'):
        write_shapes(tmp_path / 'data', train=2, val=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('split', ['train', 'val'])
def test_coco_annotations_agree_with_index_masks(small, split):
    coco = COCO(small / f'coco/annotations/instances_{split}2017.json')
    ade_split = dict(shapes.SPLITS)[split]
    assert any(len(coco.getAnnIds(image)) == 0 for image in coco.getImgIds())
    assert coco.getAnnIds(iscrowd=True)
    for image in coco.loadImgs(coco.getImgIds()):
        name = f'ADE_{split}_{image["id"]:08d}'
        labels = np.asarray(Image.open(small / f'ade20k/annotations/{ade_split}/{name}.png'))
        picture = Image.open(small / f'coco/{split}2017' / image['file_name'])
        assert labels.shape == (image['height'], image['width']) == picture.size[::-1]
        expected = np.ones_like(labels)
        for annotation in coco.loadAnns(coco.getAnnIds(image['id'])):
            mask = coco.annToMask(annotation).astype(bool)
            expected[mask] = annotation['category_id'] + 1
            x, y, w, h = annotation['bbox']
            rows, columns = np.nonzero(mask)
            assert abs(columns.min() - x) <= 1.5 and abs(columns.max() + 1 - x - w) <= 1.5
            assert abs(rows.min() - y) <= 1.5 and abs(rows.max() + 1 - y - h) <= 1.5
            assert annotation['area'] == mask.sum()
        shapes_at = expected > 1
        expected[binary_dilation(shapes_at) & ~shapes_at] = 0
        np.testing.assert_array_equal(labels, expected)


def test_frameworks_read_it(small):
    import mmdet.datasets
    import mmseg.datasets

    with DefaultScope.overwrite_default_scope('mmdet'):
        detection = mmdet.datasets.CocoDataset(
            data_root=str(small / 'coco'),
            ann_file='annotations/instances_train2017.json',
            metainfo=COCO_METAINFO,
            data_prefix=dict(img='train2017/'),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)],
        )
        samples = [detection[index] for index in range(len(detection))]
    assert len(samples) == 11
    assert {int(label) for sample in samples for label in sample['gt_bboxes_labels']} == {0, 1, 2}
    assert samples[0]['gt_ignore_flags'].sum() == 1
    with DefaultScope.overwrite_default_scope('mmseg'):
        segmentation = mmseg.datasets.BaseSegDataset(
            data_root=str(small / 'ade20k'),
            metainfo=ADE20K_METAINFO,
            reduce_zero_label=True,
            data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', reduce_zero_label=True)],
        )
        samples = [segmentation[index] for index in range(len(segmentation))]
    assert len(samples) == 12
    assert set(np.unique(np.concatenate([sample['gt_seg_map'].ravel() for sample in samples]))) == {0, 1, 2, 3, 255}


def test_second_call_changes_nothing(small):
    before = {path: path.stat().st_mtime_ns for path in small.rglob('*')}
    assert write_shapes(small, seed=3, train=12, val=6) == small
    assert {path: path.stat().st_mtime_ns for path in small.rglob('*')} == before


def test_empty_folder_is_filled(tmp_path):
    assert (write_shapes(tmp_path, train=1, val=1) / MANIFEST).is_file()


def damage_change(folder):
    path = folder / 'coco/val2017/000000000001.jpg'
    path.write_bytes(path.read_bytes()[:-1])
    return 'coco/val2017/000000000001.jpg is missing, foreign or changed'


def damage_remove(folder):
    (folder / 'ade20k/annotations/training/ADE_train_00000001.png').unlink()
    return 'ADE_train_00000001.png is missing'


def damage_add(folder):
    (folder / 'ade20k/images/training/holiday.jpg').write_bytes(b'')
    return 'holiday.jpg is missing, foreign'


def damage_manifest(folder):
    (folder / MANIFEST).write_text('{')
    return f'{MANIFEST} is damaged'


def damage_foreign(folder):
    (folder / MANIFEST).unlink()
    return 'not written by make_shapes'


def damage_settings(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | dict(seed=9)))
    return 'other settings'


@pytest.mark.parametrize(
    'damage', [damage_change, damage_remove, damage_add, damage_manifest, damage_foreign, damage_settings]
)
def test_damaged_or_foreign_folder(tmp_path, damage):
    folder = write_shapes(tmp_path / 'data', train=2, val=2)
    message = damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        write_shapes(folder, train=2, val=2)
    assert str(folder) in str(caught.value) and '\n' not in str(caught.value)


def test_file_in_the_way(tmp_path):
    (tmp_path / 'data').write_text('mine')
    with pytest.raises(InputError, match='not written by make_shapes'):
        write_shapes(tmp_path / 'data', train=2, val=2)
    assert (tmp_path / 'data').read_text() == 'mine'
