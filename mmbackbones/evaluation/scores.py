"""Scores of finished runs in resamples of the images, from their saved predictions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmbackbones.errors import InputError
from mmbackbones.evaluation.average_precision import ClassMatches, Matches, average_precision, match_detections
from mmbackbones.evaluation.bootstrap import mean_iou
from mmbackbones.evaluation.choices import IOU_TYPES as IOU_TYPES
from mmbackbones.evaluation.metrics import AREAS
from mmbackbones.evaluation.predictions import SPLITS, FinishedRun, Sample, evaluators_of, range_text

# Options of an evaluator that change a score, with the values under which our score is the same.
OWN_WAYS = {'iou_thrs': None, 'proposal_nums': [100, 300, 1000], 'nan_to_num': None, 'format_only': False}
Values = dict[tuple[str, str, str], np.ndarray]  # (metric, split, group) -> score in each resample, in percent


def scored_metrics(run: FinishedRun) -> tuple[str, ...]:
    """The metrics by which the saved predictions of a run are scored: what its evaluators were asked for.

    Raises:
        InputError: none of the evaluators keeps predictions that can be scored, or they score in a way of their own.
    """
    if run.record['task'] == 'classification':
        raise InputError(f'{run.folder}: a classifier keeps no predictions per image, so nothing can be resampled')
    detection, evaluators = run.record['task'] == 'detection', evaluators_of(run)
    kind = 'CocoMetric' if detection else 'IoUMetric'
    keepers = [each for each in evaluators if str(each.get('type')).rpartition('.')[2] == kind]
    own = [(key, each[key]) for each in keepers for key, usual in OWN_WAYS.items() if each.get(key, usual) != usual]
    if own:
        raise InputError(
            f'{run.folder}: its evaluator has {own[0][0]}={own[0][1]}; resamples are scored without such an option'
        )
    if not detection:
        dice = any('mDice' in _listed(each.get('iou_metrics')) for each in keepers)
        return ('mIoU', 'mDice') if dice else ('mIoU',)
    wanted = {name for each in keepers for name in _listed(each.get('metric', 'bbox'))}
    metrics = tuple(label for label, iou_type in IOU_TYPES.items() if iou_type in wanted or not evaluators)
    if not metrics:
        names = ', '.join(str(each.get('type')) for each in evaluators) or 'none'
        raise InputError(
            f'{run.folder}: no predictions that can be scored; of its evaluators ({names}) none is a '
            "CocoMetric with metric='bbox' or 'segm'"
        )
    return metrics


def _listed(value: object) -> Sequence:
    return value if isinstance(value, list | tuple) else [value]


def score(
    run: FinishedRun,
    sample: Sample,
    counts: np.ndarray,
    splits: Sequence[str] = SPLITS,
    metrics: Sequence[str] | None = None,
) -> Values:
    """Scores of a run in percent; the overall one is under the split and group ``'all'``.

    Args:
        run: a finished run.
        sample: the images of the run.
        counts (int [R, images]): how often each resample drew each image; row 0 is the data itself.
        splits: some of :data:`SPLITS`.
        metrics: some of :data:`IOU_TYPES`, for detectors; by default those of :func:`scored_metrics`.

    Raises:
        InputError: predictions are missing or damaged, or do not give the score of the record.
    """
    values: Values = {}
    if run.record['task'] == 'detection':
        for metric in scored_metrics(run) if metrics is None else metrics:
            values |= _score_detections(run, sample, counts, splits, metric)
    else:
        areas = _read_areas(run, sample)
        for metric in scored_metrics(run):
            values |= _score_areas(run, sample, counts, splits, metric, areas)
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


def _score_areas(
    run: FinishedRun,
    sample: Sample,
    counts: np.ndarray,
    splits: Sequence[str],
    metric: str,
    areas: dict[str, np.ndarray],
) -> Values:
    intersect, union, label = areas['intersect'], areas['union'], areas['label']
    if metric == 'mDice':  # 2 * intersection / (prediction + label)
        intersect, union = 2 * intersect, areas['prediction'] + label
    values = {(metric, 'all', 'all'): mean_iou(intersect, union, counts)}
    _require_recorded(run, metric, values[metric, 'all', 'all'][0] * 100, 6e-3, metric, run.folder / 'areas.npz')
    if 'object size' in splits:
        # No objects here: classes by the part of an image they cover where they occur.
        pixels = np.array([width * height for width, height in sample.sizes])[:, None]
        images = (label > 0).sum(0)
        cover = np.divide((label / pixels).sum(0), images, out=np.zeros(len(images)), where=images > 0)
        occurring = np.flatnonzero(images)[np.argsort(cover[images > 0], kind='stable')]
        parts = np.array_split(occurring, 3) if len(occurring) >= 3 else []
        for name, classes in zip(('small', 'medium', 'large'), parts):
            group = f'{name} classes ({range_text(100 * cover[classes], ".2g")} % of an image)'
            values[metric, 'object size', group] = mean_iou(intersect[:, classes], union[:, classes], counts)
    for split in ('tokens', 'image area'):
        for group, inside in (sample.groups(split) if split in splits else {}).items():
            values[metric, split, group] = mean_iou(intersect[inside], union[inside], counts[:, inside])
    return values


def _read_areas(run: FinishedRun, sample: Sample) -> dict[str, np.ndarray]:
    """int64 [images, classes] by :data:`mmbackbones.evaluation.metrics.AREAS`, in the order of the sample."""
    path = run.folder / 'areas.npz'
    try:
        with np.load(path) as areas:
            stems, columns = areas['image_ids'], {name: areas[name] for name in AREAS}
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
    return {name: column[order] for name, column in columns.items()}


def _require_recorded(run: FinishedRun, key: str, value: float, tolerance: float, metric: str, source: Path) -> None:
    recorded = run.record['metrics'].get(key)
    if recorded is None or recorded < 0:
        return
    if not abs(value - recorded) <= tolerance:
        raise InputError(
            f'{run.folder}: the saved predictions give {metric} {value:.4f}, the record says '
            f'{recorded:.4f}: predictions are missing, or {source} is not what was tested on'
        )
