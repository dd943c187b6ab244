"""Saved predictions of finished runs, and their scores in resamples of the images."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmcv.image import rescale_size
from PIL import Image

from mmbackbones.errors import InputError
from mmbackbones.evaluation.average_precision import (
    ClassMatches,
    Matches,
    average_precision,
    load_annotations,
    match_detections,
)
from mmbackbones.evaluation.bootstrap import mean_iou
from mmbackbones.evaluation.outputs import RECORD
from mmbackbones.evaluation.records import RECORDS, REQUIRED

IOU_TYPES = {'box AP': 'bbox', 'mask AP': 'segm'}
SPLITS = ('object size', 'tokens', 'image area')
STRIDE = 16  # pixels per token and side, the patch size of the paper's 4,000 tokens
Values = dict[tuple[str, str, str], np.ndarray]  # (metric, split, group) -> score in each resample, in percent


@dataclass(frozen=True)
class Run:
    """A folder of saved predictions.

    Attributes:
        folder (Path): where the predictions lie.
        work_dir (Path): where the run's records lie.
        record (dict): what ``run.json`` says.
    """

    folder: Path
    work_dir: Path
    record: dict

    @property
    def name(self) -> str:
        return Path(self.record['config']).stem


def load_run(path: str | Path) -> Run:
    """Find the predictions of ``tools/test.py --out PATH``, or those of ``tools/train.py --work-dir PATH``.

    Raises:
        InputError: there are none, or they are half-written.
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
    return Run(folder, folder.parent if (folder.parent / RECORDS).exists() else folder, record)


def annotation_file(run: Run, given: Path | None = None) -> Path:
    """COCO annotations that the run was tested on: ``given``, or what its config names.

    Raises:
        InputError: there is no such file.
    """
    path = given or Path(run.record['settings'].get('test_evaluator', {}).get('ann_file') or '')
    if not path.is_file():
        raise InputError(f'{path}: no such annotation file (of {run.folder}); name it with --annotations')
    return path


class Sample:
    """The images that runs were tested on, in the order of all scores, and how they fall into groups.

    Args:
        run: any of the runs; the others must have been tested on the same images.
        annotations: COCO annotation file, for detectors.

    Raises:
        InputError: files of predictions are missing, or images of the annotations were not tested.
    """

    def __init__(self, run: Run, annotations: Path | None = None):
        self.annotations = annotations
        if run.record['task'] == 'detection':
            images = sorted(load_annotations(annotations)['images'], key=lambda image: image['id'])
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
    """Tokens of 16 x 16 pixels that the test pipeline makes of images; None if it crops or pads in ways unknown here.

    Args:
        settings: of a record.
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
        found[f'{_range(values[inside], ",")} {unit}'] = inside
    return found


def _range(values: np.ndarray, form: str) -> str:
    return ' to '.join(dict.fromkeys(format(value, form) for value in (values.min(), values.max())))


def _mask_size(folder: Path, image_id: str) -> tuple[int, int]:
    try:
        with Image.open(folder / 'masks' / f'{image_id}.png') as mask:
            return mask.size
    except OSError as error:
        raise InputError(f'{folder}: no readable prediction for image {image_id} in masks/') from error


def score(
    run: Run,
    sample: Sample,
    counts: np.ndarray,
    splits: Sequence[str] = SPLITS,
    metrics: Sequence[str] = tuple(IOU_TYPES),
) -> Values:
    """Scores of a run in percent; the overall one is under the split and group ``'all'``.

    Args:
        run: finished run.
        sample: its images.
        counts (int [R, images]): how often each resample drew each image; row 0 is the data itself.
        splits: of :data:`SPLITS`.
        metrics: of :data:`IOU_TYPES`, for detectors.

    Raises:
        InputError: predictions are missing or damaged, or do not give the score that the record states.
    """
    if run.record['task'] == 'detection':
        values = {}
        for metric in metrics:
            values |= _score_detections(run, sample, counts, splits, metric)
    else:
        values = _score_areas(run, sample, counts, splits)
    return {key: 100 * value for key, value in values.items()}


def _score_detections(run: Run, sample: Sample, counts: np.ndarray, splits: Sequence[str], metric: str) -> Values:
    iou_type = IOU_TYPES[metric]
    tested = set(run.record['image_ids'])
    missing = [image_id for image_id in sample.image_ids if image_id not in tested]
    if missing or len(tested) != len(sample.image_ids):
        raise InputError(
            f'{run.folder}: tested on {len(tested)} images, but {sample.annotations} has '
            f'{len(sample.image_ids)}' + (f', such as {missing[0]}' if missing else '')
        )
    sizes = ('small', 'medium', 'large') if 'object size' in splits else ()
    names = (run.record['settings']['test_dataloader']['dataset'].get('metainfo') or {}).get('classes')
    matches = match_detections(
        sample.annotations, run.folder / f'predictions.{iou_type}.json', iou_type, ('all', *sizes), names
    )
    values = {(metric, 'all', 'all'): average_precision(matches['all'], counts).mean(1)}
    _require_recorded(run, f'coco/{iou_type}_mAP', values[metric, 'all', 'all'][0], 6e-4, metric, sample.annotations)
    for size in sizes:
        values[metric, 'object size', f'{size} objects'] = average_precision(matches[size], counts).mean(1)
    for split in ('tokens', 'image area'):
        for group, inside in (sample.groups(split) if split in splits else {}).items():
            values[metric, split, group] = average_precision(_restrict(matches['all'], inside), counts[:, inside]).mean(
                1
            )
    return values


def _restrict(matches: Matches, inside: np.ndarray) -> Matches:
    """Matches of some of the images."""
    place = np.cumsum(inside) - 1
    kept = [inside[found.image] for found in matches.classes]
    return Matches(
        [image_id for image_id, keep in zip(matches.image_ids, inside) if keep],
        matches.truths[:, inside],
        [
            ClassMatches(place[found.image[keep]], found.hit[:, keep], found.ignored[:, keep])
            for found, keep in zip(matches.classes, kept)
        ],
    )


def _score_areas(run: Run, sample: Sample, counts: np.ndarray, splits: Sequence[str]) -> Values:
    intersect, union, label = _read_areas(run, sample)
    values = {('mIoU', 'all', 'all'): mean_iou(intersect, union, counts)}
    _require_recorded(run, 'mIoU', values['mIoU', 'all', 'all'][0] * 100, 6e-3, 'mIoU', run.folder / 'areas.npz')
    if 'object size' in splits:
        # No objects here: classes by the part of an image they cover where they occur.
        pixels = np.array([width * height for width, height in sample.sizes])[:, None]
        images = (label > 0).sum(0)
        cover = np.divide((label / pixels).sum(0), images, out=np.zeros(len(images)), where=images > 0)
        occurring = np.flatnonzero(images)[np.argsort(cover[images > 0], kind='stable')]
        parts = np.array_split(occurring, 3) if len(occurring) >= 3 else []
        for name, classes in zip(('small', 'medium', 'large'), parts):
            group = f'{name} classes ({_range(100 * cover[classes], ".2g")} % of an image)'
            values['mIoU', 'object size', group] = mean_iou(intersect[:, classes], union[:, classes], counts)
    for split in ('tokens', 'image area'):
        for group, inside in (sample.groups(split) if split in splits else {}).items():
            values['mIoU', split, group] = mean_iou(intersect[inside], union[inside], counts[:, inside])
    return values


def _read_areas(run: Run, sample: Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    path = run.folder / 'areas.npz'
    try:
        with np.load(path) as areas:
            stems, *columns = (areas[name] for name in ('image_ids', 'intersect', 'union', 'label'))
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f'{path}: missing or damaged ({" ".join(str(error).split())})') from error
    rows = {str(stem): row for row, stem in enumerate(stems)}
    missing = [image_id for image_id in sample.image_ids if image_id not in rows]
    if missing or len(rows) != len(sample.image_ids):
        raise InputError(
            f'{path}: has {len(rows)} images of {len(sample.image_ids)}'
            + (f'; missing is {missing[0]}' if missing else '')
        )
    order = [rows[image_id] for image_id in sample.image_ids]
    return tuple(column[order] for column in columns)


def _require_recorded(run: Run, key: str, value: float, tolerance: float, metric: str, source: Path) -> None:
    recorded = run.record['metrics'].get(key)
    if recorded is None or recorded < 0:
        return
    if not abs(value - recorded) <= tolerance:
        raise InputError(
            f'{run.folder}: the saved predictions give {metric} {value:.4f}, the record says '
            f'{recorded:.4f}: predictions are missing, or {source} is not what was tested on'
        )
