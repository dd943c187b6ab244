"""Cityscapes and LoveDA in their real layouts, and the sentence for a known data set that is not on the disk."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmbackbones.datasets.check import inspect_config
from mmbackbones.engine.config import load_config
from tests.conftest import ROOT
from tests.datasets.layouts import write_cityscapes, write_loveda

pytestmark = pytest.mark.promise('data-check')
CITYSCAPES, LOVEDA = 'upernet_160k_cityscapes-512x1024', 'upernet_80k_loveda-1024x1024'
ADE20K, COCO = 'upernet_160k_ade20k-512x512', 'mask-rcnn_1x_coco'


def look(task: str, root: Path) -> dict:
    options = {f'{split}_dataloader.dataset.data_root': f'{root}/' for split in ('train', 'val', 'test')}
    cfg = load_config(ROOT / f'configs/tasks/{task}.py', options, needs_backbone=False)
    return inspect_config(cfg, full=True)


def faults(reports: dict, split: str = 'train') -> list[str]:
    return [f'{fault.file}: {fault.detail}' for report in reports[split] for fault in report.faults]


@pytest.mark.parametrize(
    ('task', 'write', 'images'), [(CITYSCAPES, write_cityscapes, (4, 2)), (LOVEDA, write_loveda, (4, 2))]
)
def test_the_real_layout_is_clean(task, write, images, tmp_path):
    reports = look(task, write(tmp_path))
    for split, count in zip(('train', 'val'), images):
        (report,) = reports[split]
        assert not report.faults and report.images == report.annotations == count
        assert not [warning for warning in report.warnings if warning.kind != 'class']


@pytest.mark.parametrize(
    ('task', 'parts'),
    [
        (COCO, ('instances_train2017.json: no such annotation file', 'COCO 2017 comes from cocodataset.org')),
        (ADE20K, ('images/training: no such folder of images', 'ADE20K comes from the MIT scene parsing')),
        (CITYSCAPES, ('leftImg8bit/train: no such folder of images', 'Cityscapes comes from cityscapes-dataset.com')),
        (LOVEDA, ('img_dir/train: no such folder of images', 'LoveDA comes from zenodo.org')),
    ],
)
def test_a_missing_data_set_is_told_where_from_which_layout_and_which_option(task, parts, tmp_path):
    first, *_ = faults(look(task, tmp_path / 'data'))
    for part in (*parts, 'the folder', 'is read as', '--cfg-options {train,val,test}_dataloader.dataset.data_root=DIR'):
        assert part in first
    assert '\n' not in first


def test_labels_without_training_ids_get_the_command_that_makes_them(tmp_path):
    root = write_cityscapes(tmp_path)
    for path in (root / 'gtFine').rglob('*_labelTrainIds.png'):
        path.unlink()
    (line,) = faults(look(CITYSCAPES, root))
    assert f'CITYSCAPES_DATASET={root} csCreateTrainIdLabelImgs' in line and 'labelIds.png alone' in line


def test_one_missing_training_label_is_named(tmp_path):
    root = write_cityscapes(tmp_path)
    gone = root / 'gtFine/train/bochum/bochum_000001_000019_gtFine_labelTrainIds.png'
    gone.unlink()
    (line,) = faults(look(CITYSCAPES, root))
    assert line.startswith(f'{gone}: missing: ') and 'bochum_000001_000019_leftImg8bit.png has no mask' in line


def test_label_ids_in_the_place_of_training_ids_are_told(tmp_path):
    options = {f'{split}_dataloader.dataset.data_root': f'{write_cityscapes(tmp_path)}/' for split in ('train', 'val')}
    options['train_dataloader.dataset.seg_map_suffix'] = '_gtFine_labelIds.png'
    cfg = load_config(ROOT / f'configs/tasks/{CITYSCAPES}.py', options, needs_backbone=False)
    lines = faults(inspect_config(cfg, ('train',)))
    assert len(lines) == 4
    assert all('is outside 0 to 18 for the 19 classes' in line and '_labelTrainIds.png' in line for line in lines)


def test_loveda_as_downloaded_is_told_how_to_lie(tmp_path):
    (tmp_path / 'Train/Urban/images_png').mkdir(parents=True)
    first, *_ = faults(look(LOVEDA, tmp_path))
    assert 'has Train as downloaded' in first and 'img_dir/{train,val}' in first


def test_a_class_beyond_the_seven_is_a_fault(tmp_path):
    root = write_loveda(tmp_path)
    Image.fromarray(np.full((64, 64), 8, np.uint8)).save(root / 'ann_dir/train/1.png')
    (line,) = faults(look(LOVEDA, root))
    assert 'label 8 (4096 pixels) is outside 0 to 7 for the 7 classes' in line


def test_own_classes_get_no_word_of_a_known_data_set(tmp_path):
    options = {
        'train_dataloader.dataset.data_root': str(tmp_path / 'mine'),
        'train_dataloader.dataset.metainfo': dict(classes=('cat', 'dog')),
    }
    cfg = load_config(ROOT / f'configs/tasks/{COCO}.py', options, needs_backbone=False)
    first, *_ = faults(inspect_config(cfg, ('train',)))
    assert 'no such annotation file' in first and 'cocodataset.org' not in first
