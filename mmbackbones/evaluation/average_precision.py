"""COCO average precision of many resamples of the images at once.

hotcoco matches detections to objects once, with pycocotools' digits. An image that is drawn n times counts n times: its
detections and objects have weight n in the precision-recall curve, as if there were n copies of it.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import hotcoco
import numpy as np

from mmbackbones.errors import InputError

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
# Object areas in pixels, as COCO has them.
AREAS = {'all': (0, 1e10), 'small': (0, 32**2), 'medium': (32**2, 96**2), 'large': (96**2, 1e10)}
KEYS = {
    'images': ('id', 'file_name', 'width', 'height'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd', 'ignore', 'segmentation'),
    'categories': ('id', 'name'),
}
CHUNK = 8_000_000  # weights held at once; larger blocks fall out of the caches


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class by falling score. Equal scores are in the order of the images.

    Attributes:
        image (int [D]): place of the image in ``Matches.image_ids``.
        hit (bool [T, D]): whether it found an object that no better detection found, by IoU threshold.
        ignored (bool [T, D]): whether it counts neither as hit nor as miss, such as a detection of a crowd.
    """

    image: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray


@dataclass(frozen=True)
class Matches:
    """A model's detections on a data set, matched within one range of object areas.

    Attributes:
        image_ids (list[int]): images, by rising id.
        truths (int32 [classes, images]): number of objects to find.
        classes (list[ClassMatches]): one per row of ``truths``.
    """

    image_ids: list[int]
    truths: np.ndarray
    classes: list[ClassMatches]


def match_detections(
    annotations: Path,
    predictions: Path,
    iou_type: str,
    areas: Sequence[str] = ('all',),
    class_names: Sequence[str] | None = None,
) -> dict[str, Matches]:
    """Match a results file.

    Args:
        annotations: COCO annotation file.
        predictions: COCO results file of all images.
        iou_type: ``'bbox'`` or ``'segm'``.
        areas: keys of :data:`AREAS`.
        class_names: classes that count; by default all.

    Returns:
        Area name -> matches.

    Raises:
        InputError: a file is missing or damaged, or the two do not belong together.
    """
    truth = load_annotations(annotations)
    images = {image_id: place for place, image_id in enumerate(sorted(image['id'] for image in truth['images']))}
    categories = {
        category['id']: place
        for place, category in enumerate(
            sorted(
                (
                    category
                    for category in truth['categories']
                    if class_names is None or category['name'] in class_names
                ),
                key=lambda category: category['id'],
            )
        )
    }
    results = read_results(predictions, images)
    found = _evaluate(truth, results, iou_type, areas, list(categories)) if results else {}
    empty = ClassMatches(np.zeros(0, np.int32), *np.zeros((2, len(IOU_THRESHOLDS), 0), bool))
    matches = {}
    for area in areas:
        truths = _count_truths(truth, images, categories, AREAS[area])
        classes = [found.get((area, category), empty) for category in categories]
        matches[area] = Matches(list(images), truths, classes)
    return matches


def average_precision(matches: Matches, counts: np.ndarray) -> np.ndarray:
    """AP of resamples.

    Args:
        matches: matches of one model.
        counts (int [R, images]): how often each resample drew each image.

    Returns:
        float64 [R, T]: mean over the classes that occur in a resample, by IoU threshold; NaN if none occurs.
    """
    by_class = class_precision(matches, counts)
    occurs = ~np.isnan(by_class[..., 0])  # [R, classes]
    total = np.where(occurs[..., None], by_class, 0).sum(1)
    classes = occurs.sum(1)[:, None]
    return np.where(classes, total / np.maximum(classes, 1), np.nan)


def class_precision(matches: Matches, counts: np.ndarray) -> np.ndarray:
    """AP of every class in resamples; the arguments are those of :func:`average_precision`.

    Returns:
        float64 [R, classes, T]; NaN where a resample has no object of the class.
    """
    counts = np.ascontiguousarray(counts, np.int32)
    truths = counts @ matches.truths.T.astype(np.int32)  # [R, classes]
    result = np.full((*truths.shape, len(IOU_THRESHOLDS)), np.nan)

    def fill(place: int) -> None:
        found = _precision_of(matches.classes[place], counts, truths[:, place])
        result[:, place] = np.where(truths[:, place, None] > 0, found, np.nan)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the largest classes first
        list(pool.map(fill, np.argsort([-part.image.size for part in matches.classes], kind='stable')))
    return result


def precision_by_name(annotations: Path, predictions: Path, iou_type: str) -> dict[str, float]:
    """AP of every class by its name and, under ``'all'``, of the data set; NaN for a class without objects.

    Args:
        annotations: COCO annotation file.
        predictions: COCO results file of all images.
        iou_type: ``'bbox'`` or ``'segm'``.

    Raises:
        InputError: as :func:`match_detections`.
    """
    matches = match_detections(annotations, predictions, iou_type)['all']
    by_class = class_precision(matches, np.ones((1, len(matches.image_ids)), np.int32))[0].mean(1)
    categories = sorted(load_annotations(annotations)['categories'], key=lambda category: category['id'])
    names = [category['name'] for category in categories]
    return {'all': float(np.nanmean(by_class)), **dict(zip(names, by_class.tolist()))}


def _precision_of(found: ClassMatches, counts: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """AP of one class, [R, T]; 0 in resamples without it."""
    result = np.zeros((len(counts), len(IOU_THRESHOLDS)))
    # A miss behind the last hit changes nothing.
    hits = found.hit & ~found.ignored
    end = np.flatnonzero(hits.any(0))[-1] + 1 if hits.any() else 0
    step = max(1, CHUNK // max(end, 1))
    for start in range(0, len(counts) if end else 0, step):
        block = slice(start, start + step)
        weights = counts[block][:, found.image[:end]]
        seen = np.cumsum(weights, axis=1, dtype=np.int32)
        for row, (hit, ignored) in enumerate(zip(hits[:, :end], found.ignored[:, :end])):
            result[block, row] = _area_under_curve(weights, seen, hit, ignored, truths[block])
    return result


def _area_under_curve(
    weights: np.ndarray, seen: np.ndarray, hit: np.ndarray, ignored: np.ndarray, truths: np.ndarray
) -> np.ndarray:
    """Interpolated precision, averaged over the 101 recalls. Only the points of hits are needed."""
    places = np.flatnonzero(hit)
    if not places.size:
        return np.zeros(len(weights))
    positives = np.cumsum(weights[:, places], axis=1, dtype=np.int32)
    judged = seen[:, places]
    passed = np.flatnonzero(ignored)
    if passed.size:
        before = np.cumsum(weights[:, passed], axis=1, dtype=np.int32)
        judged -= np.pad(before, ((0, 0), (1, 0)))[:, np.searchsorted(passed, places)]
    precision = positives / np.maximum(judged, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    covered = np.searchsorted(RECALLS, positives / np.maximum(truths, 1)[:, None], side='right')
    gained = np.diff(covered, axis=1, prepend=0)
    return np.where(truths > 0, np.einsum('rp,rp->r', envelope, gained) / len(RECALLS), 0)


def load_annotations(path: Path) -> dict:
    """Read a COCO annotation file.

    Raises:
        InputError: it is missing or not such a file.
    """
    try:
        truth = json.loads(Path(path).read_bytes())
        if not isinstance(truth, dict) or not all(
            isinstance(truth.get(key), list) for key in ('images', 'annotations', 'categories')
        ):
            raise ValueError('it lacks images, annotations or categories')
    except (OSError, ValueError) as error:
        raise InputError(f'{path}: no readable COCO annotation file ({_reason(error)})') from error
    return truth


def read_results(path: Path, images: dict[int, int]) -> list[dict]:
    """Read a COCO results file, whose images must be among ``images``.

    Raises:
        InputError: it is missing or damaged, or has other images.
    """
    try:
        results = json.loads(Path(path).read_bytes())
        strangers = {result['image_id'] for result in results} - images.keys()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f'{path}: no readable predictions ({_reason(error)})') from error
    if strangers:
        raise InputError(
            f'{path}: predictions for {len(strangers)} images that the annotations do not have, such as '
            f'{min(strangers)}'
        )
    return results


def _reason(error: Exception) -> str:
    return getattr(error, 'strerror', None) or ' '.join(str(error).split()) or type(error).__name__


def _evaluate(
    annotations: dict, results: list[dict], iou_type: str, areas: Sequence[str], categories: Sequence[int]
) -> dict[tuple[str, int], ClassMatches]:
    # hotcoco insists on the types of keys that pycocotools never reads
    truth = hotcoco.COCO(
        {
            name: [{key: item[key] for key in keys if key in item} for item in annotations[name]]
            for name, keys in KEYS.items()
        }
    )
    evaluation = hotcoco.COCOeval(truth, truth.load_res(results), iou_type)
    params = evaluation.params
    params.cat_ids = list(categories)
    params.area_rng, params.area_rng_lbl = [list(AREAS[area]) for area in areas], list(areas)
    evaluation.params = params
    evaluation.evaluate()
    names = {tuple(map(float, AREAS[area])): area for area in areas}
    order = {image_id: place for place, image_id in enumerate(sorted(truth.get_img_ids()))}
    parts: dict[tuple[str, int], list] = {}
    for part in evaluation.eval_imgs:
        if part is not None and part['dtScores']:
            parts.setdefault((names[tuple(part['aRng'])], part['category_id']), []).append(
                (order[part['image_id']], part['dtScores'], part['dtMatched'], part['dtIgnore'])
            )
    return {key: _by_score(sorted(group, key=lambda part: part[0])) for key, group in parts.items()}


def _by_score(parts: list[tuple[int, list, list, list]]) -> ClassMatches:
    image = np.repeat([part[0] for part in parts], [len(part[1]) for part in parts]).astype(np.int32)
    order = np.argsort(-np.concatenate([part[1] for part in parts]), kind='stable')
    hit, ignored = (
        np.concatenate([np.array(part[column], bool) for part in parts], axis=1)[:, order] for column in (2, 3)
    )
    return ClassMatches(image[order], hit, ignored)


def _count_truths(
    truth: dict, images: dict[int, int], categories: dict[int, int], area: tuple[float, float]
) -> np.ndarray:
    counted = np.zeros((len(categories), len(images)), np.int32)
    for annotation in truth['annotations']:
        inside = area[0] <= annotation['area'] <= area[1]
        if inside and not annotation.get('iscrowd') and annotation['category_id'] in categories:
            counted[categories[annotation['category_id']], images[annotation['image_id']]] += 1
    return counted
