"""Scores of finished runs in resamples of the images, from their saved predictions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmbackbones.errors import InputError
from mmbackbones.evaluation.average_precision import ClassMatches, Matches, average_precision, match_detections
from mmbackbones.evaluation.bootstrap import mean_iou
from mmbackbones.evaluation.predictions import SPLITS, FinishedRun, Sample, range_text

IOU_TYPES = {'box AP': 'bbox', 'mask AP': 'segm'}
Values = dict[tuple[str, str, str], np.ndarray]  # (metric, split, group) -> score in each resample, in percent


def score(
    run: FinishedRun,
    sample: Sample,
    counts: np.ndarray,
    splits: Sequence[str] = SPLITS,
    metrics: Sequence[str] = tuple(IOU_TYPES),
) -> Values:
    """Scores of a run in percent; the overall one is under the split and group ``'all'``.

    Args:
        run: a finished run.
        sample: the images of the run.
        counts (int [R, images]): how often each resample drew each image; row 0 is the data itself.
        splits: some of :data:`SPLITS`.
        metrics: some of :data:`IOU_TYPES`, for detectors.

    Raises:
        InputError: predictions are missing or damaged, or do not give the score of the record.
    """
    if run.record['task'] == 'detection':
        values: Values = {}
        for metric in metrics:
            values |= _score_detections(run, sample, counts, splits, metric)
    else:
        values = _score_areas(run, sample, counts, splits)
    return {key: 100 * value for key, value in values.items()}


def _score_detections(
    run: FinishedRun, sample: Sample, counts: np.ndarray, splits: Sequence[str], metric: str
) -> Values:
    assert sample.annotations is not None  # of a detector it reads them
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


def _score_areas(run: FinishedRun, sample: Sample, counts: np.ndarray, splits: Sequence[str]) -> Values:
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
            group = f'{name} classes ({range_text(100 * cover[classes], ".2g")} % of an image)'
            values['mIoU', 'object size', group] = mean_iou(intersect[:, classes], union[:, classes], counts)
    for split in ('tokens', 'image area'):
        for group, inside in (sample.groups(split) if split in splits else {}).items():
            values['mIoU', split, group] = mean_iou(intersect[inside], union[inside], counts[:, inside])
    return values


def _read_areas(run: FinishedRun, sample: Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def _require_recorded(run: FinishedRun, key: str, value: float, tolerance: float, metric: str, source: Path) -> None:
    recorded = run.record['metrics'].get(key)
    if recorded is None or recorded < 0:
        return
    if not abs(value - recorded) <= tolerance:
        raise InputError(
            f'{run.folder}: the saved predictions give {metric} {value:.4f}, the record says '
            f'{recorded:.4f}: predictions are missing, or {source} is not what was tested on'
        )
