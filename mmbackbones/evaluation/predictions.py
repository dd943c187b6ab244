"""Saved predictions of finished runs, and the images that they were tested on."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmcv.image import rescale_size
from PIL import Image

from mmbackbones.errors import InputError
from mmbackbones.evaluation.average_precision import load_annotations
from mmbackbones.evaluation.choices import SPLITS as SPLITS
from mmbackbones.evaluation.outputs import RECORD
from mmbackbones.evaluation.records import RECORDS, REQUIRED

STRIDE = 16  # pixels per token and side, the patch size of the paper's 4,000 tokens


@dataclass(frozen=True)
class FinishedRun:
    """A folder of saved predictions.

    Attributes:
        folder (Path): folder of the predictions.
        work_dir (Path): folder of the run's records.
        record (dict): content of ``run.json``.
    """

    folder: Path
    work_dir: Path
    record: dict

    @property
    def name(self) -> str:
        return Path(self.record['config']).stem


def load_run(path: str | Path) -> FinishedRun:
    """Find the predictions of ``tools/test.py --out PATH``, or those of ``tools/train.py --work-dir PATH``.

    Raises:
        InputError: there are none, or they are incomplete.
    """
    path = Path(path)
    folder = next((folder for folder in (path, path / 'final') if (folder / RECORD).is_file()), None)
    if folder is None:
        left = ' (a half-written one was left by a run that did not end)' if any(path.glob('.*.partial')) else ''
        why = 'no such folder' if not path.is_dir() else f'no finished run: neither {RECORD} nor final/{RECORD}{left}'
        raise InputError(f'{path}: {why}')
    try:
        record = json.loads((folder / RECORD).read_bytes())
        absent = [key for key in (*REQUIRED, 'image_ids', 'task', 'settings') if key not in record]
    except (ValueError, TypeError) as error:
        raise InputError(f'{folder / RECORD}: not a whole record ({error})') from error
    if absent:
        raise InputError(f'{folder / RECORD}: the record lacks {", ".join(absent)}; test the checkpoint again')
    return FinishedRun(folder, folder.parent if (folder.parent / RECORDS).exists() else folder, record)


def evaluators_of(run: FinishedRun) -> list[dict]:
    """Configurations of the evaluators that judged a run."""
    evaluators = run.record['settings'].get('test_evaluator') or []
    return evaluators if isinstance(evaluators, list) else [evaluators]


def annotation_file(run: FinishedRun, given: Path | None = None) -> Path:
    """COCO annotations that the run was tested on: ``given``, or the file that its config names.

    Raises:
        InputError: there is no such file.
    """
    named = [each['ann_file'] for each in evaluators_of(run) if each.get('ann_file')]
    if not given and not named:
        raise InputError(f'{run.folder}: its evaluator names no COCO annotation file; name one with --annotations')
    path = given or Path(named[0])
    if not path.is_file():
        raise InputError(f'{path}: no such annotation file (of {run.folder}); name it with --annotations')
    return path


class Sample:
    """The images that runs were tested on, in the order of all scores, and their groups.

    Args:
        run: one of the runs; the others must have been tested on the same images.
        annotations: COCO annotation file, for detectors; by default the file that the run's config names.

    Raises:
        InputError: files of predictions are missing, or images of the annotations were not tested.
    """

    def __init__(self, run: FinishedRun, annotations: Path | None = None):
        self.annotations: Path | None = None
        if run.record['task'] == 'detection':
            self.annotations = annotation_file(run, annotations)
            images = sorted(load_annotations(self.annotations)['images'], key=lambda image: image['id'])
            self.image_ids = [image['id'] for image in images]
            self.sizes = [(image['width'], image['height']) for image in images]
        else:
            self.image_ids = sorted(map(str, run.record['image_ids']))
            self.sizes = [_mask_size(run.folder, image_id) for image_id in self.image_ids]
        self.settings = run.record['settings']

    def groups(self, split: str) -> dict[str, np.ndarray]:
        """Thirds of the images by ``'tokens'`` or ``'image area'``: label -> bool [images]; none if all are equal."""
        if split == 'image area':
            return _thirds(np.array([width * height for width, height in self.sizes]), 'px')
        tokens = tokens_of(self.settings, self.sizes)
        return {} if tokens is None else _thirds(tokens, 'tokens')


def tokens_of(settings: dict, sizes: Sequence[tuple[int, int]]) -> np.ndarray | None:
    """Number of 16 x 16 pixel tokens of each image after the test pipeline; None if it crops or pads in an unknown way.

    Args:
        settings: settings of a record.
        sizes: width and height of each image in pixels.
    """
    pipeline = settings['test_dataloader']['dataset']['pipeline']
    resizes = [step for step in pipeline if step['type'] == 'Resize']
    others = [
        step['type']
        for step in pipeline
        if step['type'] not in ('Resize', 'LoadImageFromFile', 'LoadAnnotations', 'PackDetInputs', 'PackSegInputs')
    ]
    if len(resizes) > 1 or others or any(not step.get('keep_ratio') for step in resizes):
        return None
    divisor = settings['model'].get('data_preprocessor', {}).get('pad_size_divisor', 1)
    tokens = []
    for size in sizes:
        for step in resizes:
            scale = step.get('scale') or step['scale_factor']
            size = rescale_size(size, tuple(scale) if isinstance(scale, list) else scale)
        width, height = (-(-(-(-side // divisor) * divisor) // STRIDE) for side in size)
        tokens.append(width * height)
    return np.array(tokens)


def _thirds(values: np.ndarray, unit: str) -> dict[str, np.ndarray]:
    edges = np.unique(np.quantile(values, [0, 1 / 3, 2 / 3, 1], method='inverted_cdf'))
    if len(edges) < 2:
        return {}
    found = {}
    for place, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = (values > low) & (values <= high) if place else values <= high
        found[f'{range_text(values[inside], ",")} {unit}'] = inside
    return found


def range_text(values: np.ndarray, form: str) -> str:
    """``'3 to 7'``, or ``'3'`` if all are equal; ``form`` is a format such as ``','``."""
    return ' to '.join(dict.fromkeys(format(value, form) for value in (values.min(), values.max())))


def _mask_size(folder: Path, image_id: str) -> tuple[int, int]:
    try:
        with Image.open(folder / 'masks' / f'{image_id}.png') as mask:
            return mask.size
    except OSError as error:
        raise InputError(f'{folder}: no readable prediction for image {image_id} in masks/') from error
