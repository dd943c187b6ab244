"""Boundary IoU: against its definition taken at its word, on masks whose score is known, and over a data set."""

import math

import numpy as np
import pytest
import torch

from mmbackbones.errors import InputError
from mmbackbones.evaluation.boundary import BoundaryIoUMetric, boundary_areas

CLASSES = ('ground', 'pole', 'sky')


def slow_region(mask: np.ndarray, valid: np.ndarray, distance: int) -> set[tuple[int, int]]:
    """G_d and G: pixels of a class from which a king of chess leaves the class, or the image, in ``distance`` steps."""
    height, width = mask.shape

    def inside(y: int, x: int) -> bool:
        return 0 <= y < height and 0 <= x < width and bool(valid[y, x] and mask[y, x])

    steps = range(-distance, distance + 1)
    return {
        (y, x)
        for y in range(height)
        for x in range(width)
        if inside(y, x) and not all(inside(y + dy, x + dx) for dy in steps for dx in steps)
    }


def slow_areas(prediction: np.ndarray, label: np.ndarray, classes: int, distance: int) -> np.ndarray:
    rows = []
    for index in range(classes):
        regions = [slow_region(mask == index, label != 255, distance) for mask in (prediction, label)]
        rows.append([len(regions[0] & regions[1]), len(regions[0]), len(regions[1])])
    return np.array(rows).T


def patches(rng: np.random.Generator, height: int, width: int, side: int) -> np.ndarray:
    coarse = rng.integers(0, 3, (-(-height // side), -(-width // side)))
    return np.repeat(np.repeat(coarse, side, 0), side, 1)[:height, :width]


@pytest.mark.parametrize('distance', [1, 2, 5, 40])
@pytest.mark.parametrize(('height', 'width', 'side'), [(23, 31, 7), (9, 40, 1), (1, 12, 4)])
def test_areas_are_those_of_the_definition(height, width, side, distance):
    rng = np.random.default_rng(distance)
    prediction, label = (patches(rng, height, width, side) for _ in range(2))
    label[rng.random(label.shape) < 0.05] = 255
    label[:, : width // 6] = 255
    found = boundary_areas(prediction, label, 3, distance)
    assert found.dtype == np.int64 and found.sum() > 0
    np.testing.assert_array_equal(found, slow_areas(prediction, label, 3, distance))


def test_far_from_every_contour_is_what_erosion_leaves():
    """The authors' way: a mask without its erosion by a 3x3 square, as often as ``distance`` says."""
    import cv2

    label = patches(np.random.default_rng(0), 60, 80, 24)
    for index in range(3):
        framed = np.pad((label == index).astype(np.uint8), 1)
        left = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=4)
        _, _, counted = boundary_areas(label, label, 3, 4)
        assert counted[index] == (framed - left).sum()


def sample(prediction: np.ndarray, label: np.ndarray) -> dict:
    return {
        key: dict(data=torch.from_numpy(mask.astype(np.int64))[None])
        for key, mask in (('pred_sem_seg', prediction), ('gt_sem_seg', label))
    }


def scores(*pairs: tuple[np.ndarray, np.ndarray], **options) -> dict[str, float]:
    metric = BoundaryIoUMetric(**options)
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, [sample(*pair) for pair in pairs])
    return metric.evaluate(len(pairs))


def scene(pole: int) -> np.ndarray:
    """Sky over ground, 40x60 px, and a pole of 2 px at this column."""
    label = np.zeros((40, 60), int)
    label[:20] = 2
    label[5:35, pole : pole + 2] = 1
    return label


def test_the_truth_scores_100_and_a_class_that_is_nowhere_does_not_count():
    assert scores((scene(30), scene(30)), thin=['pole']) == dict(mBIoU=100.0, mBIoU_thin=100.0)
    everywhere = np.zeros((40, 60), int)
    assert scores((everywhere, everywhere), thin=['pole'])['mBIoU'] == 100.0
    assert math.isnan(scores((everywhere, everywhere), thin=['pole'])['mBIoU_thin'])


def test_a_thin_object_one_pixel_beside_its_place():
    """Its 2 px wide region is the whole pole: 30 of 90 pixels agree. mIoU of all classes is far higher."""
    found = scores((scene(31), scene(30)), thin=['pole'], dilation_ratio=0.02)
    assert found['mBIoU_thin'] == pytest.approx(100 / 3, abs=0.01)
    assert found['mBIoU_thin'] < found['mBIoU'] < 100


def test_areas_are_summed_over_images():
    right, beside = (scene(30), scene(30)), (scene(31), scene(30))
    areas = sum(boundary_areas(*pair, 3, 1).astype(float) for pair in (right, beside))
    expected = np.mean(areas[0] / (areas[1] + areas[2] - areas[0])) * 100
    assert scores(right, beside, dilation_ratio=0.01)['mBIoU'] == pytest.approx(expected, abs=0.006)


def test_ignored_pixels_do_not_count():
    label = scene(30)
    label[:, :8] = 255
    prediction = label.copy()
    prediction[:, :8] = np.arange(8) % 3
    assert scores((prediction, label))['mBIoU'] == 100.0


def test_distance_follows_the_diagonal():
    assert BoundaryIoUMetric(0.005).distance(1024, 2048) == 11
    assert BoundaryIoUMetric(0.005).distance(16, 16) == 1


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(dilation_ratio=2), 'dilation_ratio=2: expected a number above 0'),
        (dict(thin='pole'), "thin='pole': expected a list"),
        (dict(thin=None), 'thin=None: expected a list'),
        (dict(thin=['mast']), "'mast' is no class of the data set; it has ground, pole, sky"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        scores((scene(30), scene(30)), **options)


def test_without_labels_it_computes_nothing():
    metric = BoundaryIoUMetric(format_only=True, thin=['pole'])
    metric.process({}, [dict(pred_sem_seg=dict(data=torch.zeros(1, 4, 4)))])
    assert metric.results == [] and metric.compute_metrics([]) == {} and metric.reported == []
