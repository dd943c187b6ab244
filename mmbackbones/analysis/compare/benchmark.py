"""A comparison of two synthetic detectors at the size of COCO val, for timing."""

import json
from pathlib import Path

import numpy as np

from mmbackbones.evaluation.average_precision import average_precision, match_detections
from mmbackbones.evaluation.bootstrap import draw_counts, interval

CLASSES, OBJECTS, DETECTIONS = 80, 7.3, 100  # per image: COCO val has 36,781 objects on 5,000 images


def write_synthetic(folder: Path, images: int) -> tuple[Path, list[Path]]:
    """Write annotations, and results of two detectors with three quarters of the objects and random boxes."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, CLASSES + 1)
    share /= share.sum()

    def boxes(number):
        size = np.exp(rng.normal(4, 0.8, (number, 2))).clip(4, 400)
        return np.concatenate([rng.random((number, 2)) * ((640, 480) - size), size], 1)

    truth, results = [], [[], []]
    for image in range(1, images + 1):
        objects = boxes(rng.poisson(OBJECTS))
        classes = 1 + rng.choice(CLASSES, len(objects), p=share)
        truth += [
            dict(
                id=len(truth) + place,
                image_id=image,
                category_id=int(label),
                bbox=box.tolist(),
                area=float(box[2] * box[3]),
                iscrowd=0,
            )
            for place, (box, label) in enumerate(zip(objects, classes), 1)
        ]
        for detector, spread in zip(results, (0.09, 0.08)):
            found = rng.random(len(objects)) < 0.75
            scale = np.tile(objects[found, 2:], 2)
            near = objects[found] + rng.normal(0, spread, scale.shape) * scale
            near[:, 2:] = near[:, 2:].clip(1)
            chance = boxes(DETECTIONS - len(near))
            labels = np.concatenate([classes[found], 1 + rng.choice(CLASSES, len(chance), p=share)])
            scores = np.concatenate([rng.beta(5, 2, len(near)), rng.beta(1, 8, len(chance))])
            detector += [
                dict(image_id=image, category_id=int(label), bbox=box.tolist(), score=float(score))
                for box, label, score in zip(np.concatenate([near, chance]), labels, scores)
            ]
    content = dict(
        images=[dict(id=image, width=640, height=480) for image in range(1, images + 1)],
        annotations=truth,
        categories=[dict(id=label, name=str(label)) for label in range(1, CLASSES + 1)],
    )
    paths = [folder / name for name in ('truth.json', 'first.json', 'second.json')]
    for path, part in zip(paths, (content, *results)):
        path.write_text(json.dumps(part))
    return paths[0], paths[1:]


def compare_synthetic(truth: Path, results: list[Path], images: int, resamples: int) -> tuple[float, float, float]:
    """AP of the second detector minus AP of the first, with the ends of the 95 % interval."""
    counts = draw_counts(images, resamples, seed=0)
    scores = [average_precision(match_detections(truth, path, 'bbox')['all'], counts).mean(1) for path in results]
    gaps = scores[1] - scores[0]
    return gaps[0], *interval(gaps[1:])
