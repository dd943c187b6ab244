"""Regression of a dense score on ImageNet accuracy and mixer class, robust to rows of one family going together.

The interval is the cluster jackknife's (CV3 in MacKinnon, Nielsen and Webb, "Leverage, influence, and the jackknife in
clustered regression models", Stata Journal 23, 2023): each family is left out in turn, and the spread of the estimates
is the standard error. It needs no model of how the rows of a family go together, and with few families it is the more
cautious of the usual ones. Student's t has as many degrees of freedom as both sides of the contrast have families,
less two. The same fits give the leave-one-family-out range.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from mmbackbones.analysis.evidence.choices import COVARIATES
from mmbackbones.analysis.evidence.points import CLASSES, Point
from mmbackbones.errors import InputError

LEVEL = 0.95
MIN_FAMILIES = 3
# Contrast -> the class, what it is held against (None: all others).
CONTRASTS: dict[str, tuple[str, str | None]] = {
    'SSM against conv': ('SSM', 'conv'),
    'SSM against all others': ('SSM', None),
    'attention against conv': ('attention', 'conv'),
    'linear attention against conv': ('linear attention', 'conv'),
    'hybrid against conv': ('hybrid', 'conv'),
}


@dataclass(frozen=True)
class Estimate:
    """A difference of scores at equal ImageNet accuracy.

    Attributes:
        value (float | None): the difference in points of the metric; None if it cannot be computed.
        low, high (float | None): ends of the 95 % interval; None if none is given.
        lowest, highest (float | None): smallest and largest value with one family left out.
        families (tuple[int, int]): families on each side.
        rows (int): rows of the regression.
        slope (float | None): points of the metric per point of top-1.
        reason (str): why there is no interval; empty if there is one.
    """

    value: float | None
    low: float | None
    high: float | None
    lowest: float | None
    highest: float | None
    families: tuple[int, int]
    rows: int
    slope: float | None
    reason: str = ''


def estimate(points: Sequence[Point], contrast: str, covariate: str = 'none') -> Estimate:
    """Estimate a contrast of mixer classes at equal ImageNet accuracy.

    Args:
        points (Sequence[Point]): rows of one metric.
        contrast (str): one of :data:`CONTRASTS`.
        covariate (str): one of :data:`COVARIATES`; its logarithm enters the regression. Rows without it are left out.

    Raises:
        InputError: an unknown contrast or covariate.
    """
    for name, value, known in (('contrast', contrast, CONTRASTS), ('covariate', covariate, COVARIATES)):
        if value not in known:
            raise InputError(f'{name} {value!r}: expected one of {", ".join(known)}')
    of, against = CONTRASTS[contrast]
    points = [point for point in points if _size(point, covariate) is not None]
    sides = [{p.family for p in points if p.mixer == of}, {p.family for p in points if _beside(p, of, against)}]
    counts = (len(sides[0]), len(sides[1]))
    for side, families in zip((of, against or 'other classes'), sides):
        if len(families) < MIN_FAMILIES:
            names = f' ({", ".join(sorted(families))})' if families else ''
            reason = f'{len(families)} families of {side}{names}; an interval needs {MIN_FAMILIES}'
            return Estimate(None, None, None, None, None, counts, len(points), None, reason)
    value, slope = _fit(points, of, against, covariate)
    families = sorted({point.family for point in points})
    without = [_fit([p for p in points if p.family != name], of, against, covariate)[0] for name in families]
    error = jackknife_error(value, without)
    half = float(student.ppf((1 + LEVEL) / 2, sum(counts) - 2)) * error
    return Estimate(value, value - half, value + half, min(without), max(without), counts, len(points), slope)


def jackknife_error(value: float, without: Sequence[float]) -> float:
    """Standard error of a value from its values with one family left out (CV3)."""
    count = len(without)
    return float(np.sqrt((count - 1) / count * np.sum((np.array(without) - value) ** 2)))


def residuals(points: Sequence[Point], covariate: str = 'none') -> list[float]:
    """What each score lies above the line of all points on top-1, whatever the class."""
    x = np.column_stack(_columns(points, covariate))
    y = np.array([point.score for point in points])
    return list(y - x @ np.linalg.lstsq(x, y, rcond=None)[0])


def _beside(point: Point, of: str, against: str | None) -> bool:
    return point.mixer != of if against is None else point.mixer == against


def _size(point: Point, covariate: str) -> float | None:
    return 0.0 if covariate == 'none' else getattr(point, covariate)


def _columns(points: Sequence[Point], covariate: str) -> list[np.ndarray]:
    top1 = np.array([point.top1 for point in points])
    columns = [np.ones(len(points)), top1 - top1.mean()]
    if covariate != 'none':
        size = np.log([_size(point, covariate) or math.nan for point in points])
        columns.append(size - size.mean())
    return columns


def _fit(points: Sequence[Point], of: str, against: str | None, covariate: str) -> tuple[float, float]:
    """The contrast, and points of the metric per point of top-1."""
    # With another class as the base, each class has a column of its own; against all others, only one has.
    classes = [of] if against is None else [of, *(x for x in CLASSES if x not in (of, against))]
    present = [name for name in classes if any(point.mixer == name for point in points)]
    columns = _columns(points, covariate)
    columns += [np.array([float(point.mixer == name) for point in points]) for name in present]
    x = np.column_stack(columns)
    fitted = np.linalg.lstsq(x, np.array([point.score for point in points]), rcond=None)[0]
    return float(fitted[len(columns) - len(present)]), float(fitted[1])
