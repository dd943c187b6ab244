"""Configurations of data sets, and ways to spoil a file of one. A fault takes the folder and returns the file."""

import json
import shutil
from pathlib import Path

import numpy as np
from mmengine.config import ConfigDict
from PIL import Image

from mmbackbones.datasets.check import check_dataset
from mmbackbones.datasets.shapes import ADE20K_METAINFO, COCO_METAINFO

ANN, PICTURES = 'annotations/instances_train2017.json', 'train2017'
IMAGES, MASKS = 'images/training', 'annotations/training'
PIPELINE = [dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
JPEG = f'{PICTURES}/000000000002.jpg'
PNG = f'{MASKS}/ADE_train_00000002.png'
PHOTO = f'{IMAGES}/ADE_train_00000002.jpg'


def coco_cfg(folder: Path, **more) -> dict:
    return dict(
        dict(
            type='CocoDataset',
            data_root=str(folder),
            ann_file=ANN,
            data_prefix=dict(img=f'{PICTURES}/'),
            metainfo=COCO_METAINFO,
            pipeline=PIPELINE,
        ),
        **more,
    )


def seg_cfg(folder: Path, **more) -> dict:
    return dict(
        dict(
            type='BaseSegDataset',
            data_root=str(folder),
            reduce_zero_label=True,
            metainfo=ADE20K_METAINFO,
            data_prefix=dict(img_path=IMAGES, seg_map_path=MASKS),
        ),
        **more,
    )


def config(data: Path, **more) -> ConfigDict:
    train, val = (
        coco_cfg(data / 'coco'),
        coco_cfg(
            data / 'coco',
            ann_file='annotations/instances_val2017.json',
            data_prefix=dict(img='val2017/'),
            test_mode=True,
        ),
    )
    loader = dict(dataset=val)
    evaluator = dict(type='CocoMetric', ann_file=str(data / 'coco/annotations/instances_val2017.json'))
    return ConfigDict(
        dict(
            default_scope='mmdet',
            train_dataloader=dict(dataset=train),
            val_dataloader=loader,
            test_dataloader=loader,
            val_evaluator=evaluator,
            test_evaluator=evaluator,
        )
        | more
    )


def look(cfg: dict, **options):
    return check_dataset(cfg, default_scope='mmdet' if cfg['type'] == 'CocoDataset' else 'mmseg', **options)


def edit(change):
    """A fault of the annotation file, by a function of its content."""

    def spoil(folder: Path) -> str:
        content = json.loads((folder / ANN).read_text())
        change(content)
        (folder / ANN).write_text(json.dumps(content))
        return ANN

    return spoil


def put(name: str, data: bytes | None):
    """A fault of one file, by its new content; None removes it."""

    def spoil(folder: Path) -> str:
        path = folder / name
        if data is None:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        else:
            path.write_bytes(data)
        return name

    return spoil


def cut(name: str, keep: float):
    def spoil(folder: Path) -> str:
        path = folder / name
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
        return name

    return spoil


def redraw(name: str, change):
    def spoil(folder: Path) -> str:
        path = folder / name
        with Image.open(path) as image:
            changed = change(np.array(image))
        Image.fromarray(changed).save(path)
        return name

    return spoil


def annotation(index: int = 1, **values):
    return edit(lambda content: content['annotations'][index].update(values))


def image(**values):
    return edit(lambda content: content['images'][1].update(values))


def with_label(value: int):
    def change(labels: np.ndarray) -> np.ndarray:
        labels[:2, :3] = value
        return labels

    return change
