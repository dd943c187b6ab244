"""Scores of resamples the slow way: every drawn image is copied under a new id and the usual evaluators run again."""

import contextlib
import copy
import io
import json
from pathlib import Path

import numpy as np
from mmseg.evaluation import IoUMetric
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def copied(truth: dict, results: list[dict], counts: np.ndarray) -> tuple[dict, list[dict]]:
    """The data set that a resample stands for."""
    ids = sorted(image['id'] for image in truth['images'])
    drawn = {
        image_id: [1000 * place + number for number in range(count)]
        for place, (image_id, count) in enumerate(zip(ids, counts))
    }
    data = dict(
        categories=truth['categories'],
        images=[dict(image, id=new) for image in truth['images'] for new in drawn[image['id']]],
    )
    data['annotations'] = [
        dict(annotation, image_id=new) for annotation in truth['annotations'] for new in drawn[annotation['image_id']]
    ]
    for number, annotation in enumerate(data['annotations'], 1):
        annotation['id'] = number
    return data, [dict(result, image_id=new) for result in results for new in drawn[result['image_id']]]


def slow_ap(truth: dict, results: list[dict], iou_type: str, counts: np.ndarray, area: str = 'all') -> float:
    truth, results = copied(truth, results, counts)
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO()
        data.dataset = copy.deepcopy(truth)
        data.createIndex()
        evaluation = COCOeval(data, data.loadRes(copy.deepcopy(results)), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    params = evaluation.params
    precision = evaluation.eval['precision'][..., params.areaRngLbl.index(area), -1]
    return float(precision[precision > -1].mean())


def pycocotools_ap(annotations: Path, predictions: Path, iou_type: str) -> dict[str, float]:
    """AP of every class and, under ``'all'``, of the data set."""
    results = json.loads(predictions.read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval['precision'][..., 0, -1]  # [IoU, recall, class] over all areas, 100 detections
    precision = np.ma.masked_less(precision, 0)  # -1: the class has no object
    names = {category['id']: category['name'] for category in truth.dataset['categories']}
    by_class = precision.mean((0, 1)).filled(np.nan).tolist()
    return {'all': float(precision.mean()), **dict(zip((names[c] for c in evaluation.params.catIds), by_class))}


def slow_miou(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int, counts: np.ndarray) -> float:
    """mmseg's, before it rounds; ``pairs`` are the prediction and the label of each image."""
    import torch

    areas = [
        IoUMetric.intersect_and_union(torch.from_numpy(prediction), torch.from_numpy(label), classes, 255)
        for (prediction, label), count in zip(pairs, counts)
        for _ in range(count)
    ]
    intersect, union = (torch.stack(column).double().sum(0) for column in list(zip(*areas))[:2])
    return float(np.nanmean((intersect / union).numpy()))


def jittered(truth: dict, seed: int, skill: float) -> list[dict]:
    """Detections near true objects, as boxes and masks, with misses, wrong classes and chance finds among them."""
    from pycocotools import mask as masks

    rng = np.random.default_rng(seed)
    sizes = {image['id']: (image['height'], image['width']) for image in truth['images']}
    classes = [category['id'] for category in truth['categories']]
    results = []
    for annotation in truth['annotations']:
        height, width = sizes[annotation['image_id']]
        for _ in range(rng.integers(1, 3)):
            if rng.random() > skill:
                continue
            x, y, w, h = annotation['bbox']
            shift = rng.normal(0, 0.08, 2) * (w, h)
            w, h = w * np.exp(rng.normal(0, 0.1)), h * np.exp(rng.normal(0, 0.1))
            box = [float(np.clip(x + shift[0], 0, width - 2)), float(np.clip(y + shift[1], 0, height - 2))]
            box += [float(np.clip(w, 1, width - box[0])), float(np.clip(h, 1, height - box[1]))]
            corners = np.array(
                [box[0], box[1], box[0] + box[2], box[1], box[0] + box[2], box[1] + box[3], box[0], box[1] + box[3]]
            )
            rle = masks.merge(masks.frPyObjects([corners.tolist()], height, width))
            category = annotation['category_id'] if rng.random() < 0.9 else int(rng.choice(classes))
            results.append(
                dict(
                    image_id=annotation['image_id'],
                    category_id=category,
                    bbox=box,
                    score=float(rng.beta(4, 2)),
                    segmentation=dict(size=rle['size'], counts=rle['counts'].decode()),
                )
            )
    return json.loads(json.dumps(results))
