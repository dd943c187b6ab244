"""Miniatures of Cityscapes and LoveDA in the layouts of the real data sets: streets with poles, fields with roads."""

from pathlib import Path

import numpy as np
from PIL import Image

CITIES = {'train': ('aachen', 'bochum'), 'val': ('frankfurt',)}
TRAIN_IDS = {0: 7, 2: 11, 5: 17, 10: 23, 13: 26}  # of Cityscapes, to the numbers of gtFine_labelIds
ROAD, BUILDING, POLE, SKY, CAR = TRAIN_IDS


def write_cityscapes(folder: Path, per_city: int = 2, size: tuple[int, int] = (64, 128)) -> Path:
    """``leftImg8bit`` and ``gtFine`` with five of the 19 classes; ``size`` is height and width in pixels."""
    for split, cities in CITIES.items():
        for number, city in enumerate(cities):
            for frame in range(per_city):
                rng = np.random.default_rng([number, frame, split == 'val'])
                labels, stem = _street(rng, *size), f'{city}/{city}_{frame:06d}_000019'
                _save(folder / f'leftImg8bit/{split}/{stem}_leftImg8bit.png', _picture(rng, labels))
                truth = folder / f'gtFine/{split}/{stem}_gtFine'
                _save(truth.with_name(f'{truth.name}_labelTrainIds.png'), labels)
                ids = np.vectorize(lambda label: TRAIN_IDS.get(label, 0))(labels).astype(np.uint8)
                _save(truth.with_name(f'{truth.name}_labelIds.png'), ids)
                _save(truth.with_name(f'{truth.name}_instanceIds.png'), ids.astype(np.uint16))
                _save(truth.with_name(f'{truth.name}_color.png'), np.stack([ids * 7] * 3 + [ids], -1))
                truth.with_name(f'{truth.name}_polygons.json').write_text('{"objects": []}')
    return folder


def _street(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    labels = np.full((height, width), SKY, np.uint8)
    labels[height // 4 :, : int(rng.integers(width // 4, width * 3 // 4))] = BUILDING
    labels[height // 2 :] = ROAD
    for x in rng.integers(2, width - 4, 3):
        labels[height // 5 : height * 3 // 4, x : x + 2] = POLE
    x = int(rng.integers(0, width - 30))
    labels[height * 5 // 8 : height * 7 // 8, x : x + 24] = CAR
    labels[-4:] = 255  # the bonnet of the own car
    return labels


def write_loveda(folder: Path, train: int = 4, val: int = 2, side: int = 64) -> Path:
    """``img_dir`` and ``ann_dir`` with the seven classes from 1; 0 is no data."""
    for split, count in (('train', train), ('val', val)):
        for index in range(count):
            rng = np.random.default_rng([index, split == 'val'])
            labels = np.repeat(np.repeat(rng.integers(1, 8, (4, 4)), side // 4, 0), side // 4, 1).astype(np.uint8)
            labels[:, side // 3 : side // 3 + 3] = 3
            labels[:2] = 0
            name = f'{index if split == "train" else 2522 + index}.png'
            _save(folder / f'img_dir/{split}/{name}', _picture(rng, labels))
            _save(folder / f'ann_dir/{split}/{name}', labels)
    return folder


def _picture(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    colours = np.random.default_rng(0).integers(0, 256, (256, 3))
    return (colours[labels] + rng.normal(0, 8, (*labels.shape, 3))).clip(0, 255).astype(np.uint8)


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
