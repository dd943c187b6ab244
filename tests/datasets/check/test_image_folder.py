"""The check of image folders: every layout that is not the expected one gets a sentence that says what to do."""

import shutil

import pytest

from mmbackbones.datasets.check import check_dataset, inspect_config
from mmbackbones.datasets.check.drop import drop_faulty
from mmbackbones.datasets.shapes_imagenet import CLASSES, write_image_folders

FIRST = 'n00000001/train_00000000.JPEG'


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    return write_image_folders(tmp_path_factory.mktemp('data') / 'imagenet', train=12, val=6)


@pytest.fixture
def data(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / 'imagenet')


def dataset(root, split='train', **more):
    return dict(type='ImageNet', data_root=str(root), split=split, metainfo=dict(classes=CLASSES), **more)


def check(root, split='train', full=False, **more):
    return check_dataset(dataset(root, split, **more), full, cache=False, default_scope='mmpretrain')


def flat(root):
    for path in (root / 'val').rglob('*.JPEG'):
        path.rename(root / 'val' / path.name)
    for path in [path for path in (root / 'val').iterdir() if path.is_dir()]:
        path.rmdir()


def test_a_clean_one(whole):
    report = check(whole)
    assert (report.faults, report.warnings, report.images) == ([], [], 12) and report.fingerprint
    assert check(whole, full=True).fingerprint == report.fingerprint != check(whole, 'val').fingerprint


def test_hidden_files_take_no_part(data):
    """As in mmpretrain: a copy from a Mac has one beside each image."""
    before = check(data)
    image = next((data / 'train').rglob('*.JPEG'))
    image.with_name(f'._{image.name}').write_bytes(b'no image')
    after = check(data, full=True)
    assert (after.faults, after.warnings, after.images) == ([], [], before.images)
    assert after.fingerprint == before.fingerprint


def test_images_of_no_class(data):
    flat(data)
    (fault,) = check(data, 'val').faults
    assert 'holds 6 images such as val_00000000.JPEG and no folder of a class: sort them into folders' in str(fault)
    assert f'or give each its label in {data}/meta/val.txt' in str(fault)
    (data / 'meta').mkdir()
    (data / 'meta/val.txt').write_text(''.join(f'val_{i:08d}.JPEG {i}\n' for i in range(6)))
    report = check(data, 'val')
    assert (report.faults, report.images) == ([], 6)
    (data / 'meta/val.txt').write_text('val_00000000.JPEG 6\nval_00000001.JPEG\nval_9.JPEG 2\n')
    assert [fault.detail.partition(',')[0] for fault in check(data, 'val').faults] == [
        'line 1 has label 6',
        "line 2 is 'val_00000001.JPEG'",
        'no such file',
    ]


def test_archives(data):
    shutil.rmtree(data / 'val')
    (data / 'ILSVRC2012_img_val.tar').write_bytes(b'')
    (fault,) = check(data, 'val').faults
    assert 'no such folder of images; ILSVRC2012_img_val.tar lies beside it: unpack it there' in str(fault)
    (data / 'val').mkdir()
    (data / 'val/n00000001.tar').write_bytes(b'')
    (fault,) = check(data, 'val').faults
    assert 'holds 1 archives such as n00000001.tar: unpack each into a folder of its name' in str(fault)


def test_nothing_is_there(tmp_path):
    (fault,) = check_dataset(
        dict(type='ImageNet', data_root=str(tmp_path / 'none'), split='val'), default_scope='mmpretrain'
    ).faults
    assert 'ImageNet-1K comes from https://image-net.org as ILSVRC2012_img_train.tar' in str(fault)


def test_damaged_files_and_wrong_folders(data):
    (data / 'train' / FIRST).write_bytes(b'')
    (data / 'train/n00000002/a.gif').write_bytes(b'GIF89a')
    shutil.rmtree(data / 'train/n00000006')
    (data / 'train/n00000005/train_00000004.JPEG').unlink()
    (data / 'train/n00000005/train_00000010.JPEG').unlink()
    report = check(data)
    assert [fault.detail for fault in report.faults] == [
        'holds 5 folders, but there are 6 classes',
        'the class has no image with a suffix of .bmp, .jpeg, .jpg, .pgm, .png, .ppm, .tif',
        'the file is empty (0 bytes)',
    ]
    assert [warning.detail for warning in report.warnings] == ['1 files with the suffix .gif are left out']


def test_faulty_images_can_be_left_out(data, tmp_path):
    (data / 'train' / FIRST).write_bytes(b'')
    cfg = dict(default_scope='mmpretrain', train_dataloader=dict(dataset=dataset(data)))
    drop_faulty(cfg, tmp_path, cache=False)
    (report,) = inspect_config(cfg, ('train',), cache=False)['train']
    assert (report.faults, report.images) == ([], 11)
