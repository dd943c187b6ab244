"""Paired bootstrap over images, and over seeds and images: draws, intervals, p-values and their correction.

A resample draws as many images as there are, with replacement, and counts an image as often as it was drawn (Efron
1979, https://doi.org/10.1214/aos/1176344552). All models are scored on the same draws, so that the difficulty of an
image cancels in a difference.
"""

import numpy as np

from mmbackbones.errors import InputError

SEEDS_FOR_METHODS = 3  # per arm; with fewer nothing is said about methods


def draw_counts(images: int, resamples: int, seed: int) -> np.ndarray:
    """How often each sample contains each image. Row 0 is the data itself (ones), the others are resamples.

    Returns:
        int32 [1 + resamples, images].

    Raises:
        InputError: no images, or too few resamples for an interval.
    """
    if images < 2:
        raise InputError(f'{images} images: a bootstrap over images needs two and more')
    if resamples < 100:
        raise InputError(f'--resamples {resamples}: expected 100 and more')
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(images, np.full(images, 1 / images), size=resamples)
    return np.concatenate([np.ones((1, images), np.int32), counts.astype(np.int32)])


def mean_iou(intersect: np.ndarray, union: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """mIoU of resamples, in 0..1.

    Args:
        intersect (int [images, classes]): pixels.
        union (int [images, classes]): pixels.
        counts (int [R, images]): how often each resample drew each image.

    Returns:
        float64 [R]: mean over the classes that are labelled or predicted anywhere in the resample; NaN if there are
        none.
    """
    by_class = ratio_of_sums(intersect, union, counts)
    occurs = ~np.isnan(by_class)
    classes = occurs.sum(1)
    return np.where(classes, np.where(occurs, by_class, 0).sum(1) / np.maximum(classes, 1), np.nan)


def ratio_of_sums(part: np.ndarray, whole: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sum of ``part`` divided by the sum of ``whole`` in resamples, column by column.

    Args:
        part (int [images, columns]): such as pixels of an intersection or right answers.
        whole (int [images, columns]): such as pixels of a union or all answers.
        counts (int [R, images]): how often each resample drew each image.

    Returns:
        float64 [R, columns]; NaN if the sum of ``whole`` is 0.
    """
    # float64 is exact up to 2**53, and unlike int64 has a fast product
    part, whole = (counts.astype(float) @ areas.astype(float) for areas in (part, whole))
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def mean_over_seeds(values: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """Score of an arm: the mean of its runs, in each resample.

    Args:
        values (float [runs, 1 + R]): score of each run in the data and in each resample.
        rng: draws runs for every resample, which makes the bootstrap hierarchical. It draws one run fewer than there
            are, because n of n would understate their variance by (n - 1) / n (Rao and Wu 1988,
            https://doi.org/10.1080/01621459.1988.10478591). None keeps all runs.

    Returns:
        float [1 + R].
    """
    result = values.mean(0)
    if rng is not None:
        runs, columns = len(values), values.shape[1]
        drawn = rng.integers(runs, size=(runs - 1, columns - 1))
        result[1:] = np.take_along_axis(values[:, 1:], drawn, 0).mean(0)
    return result


def interval(differences: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile interval of resampled values. NaN values, from resamples with nothing to score, are left out."""
    known = differences[~np.isnan(differences)]
    if not known.size:
        return float('nan'), float('nan')
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def p_value(differences: np.ndarray) -> float:
    """Two-sided p-value of no difference: twice the smaller share of resampled differences beyond zero.

    It inverts the percentile interval and is at least 2 / (R + 1).
    """
    known = differences[~np.isnan(differences)]
    tail = min(np.count_nonzero(known <= 0), np.count_nonzero(known >= 0))
    return min(1.0, 2 * (1 + tail) / (1 + known.size))


def holm(p_values: list[float]) -> list[float]:
    """Correct p-values for their number, so that the chance of any false claim stays below the level (Holm 1979)."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind='stable')):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
