"""Does the advantage grow with the length of the sequence? Published scores against tokens over 6 D.

MambaOut calls a sequence long if the part of attention that is quadratic in the tokens costs more than the rest:
L > 6 D. L are the tokens of the stage at stride 16, which has most blocks in nearly every network, and D is its width.
The width is read from our own network, so only models of the zoo take part.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from mmbackbones.analysis.evidence.points import CLASSES, Point
from mmbackbones.analysis.evidence.regression import LEVEL, MIN_FAMILIES, jackknife_error
from mmbackbones.layers.meta_device import shapes_alone
from mmbackbones.registry import MODELS
from mmbackbones.zoo.models import backbone_config, model_names
from mmbackbones.zoo.rows import named_rows

STRIDE = 16
PIXELS = {'ImageNet at 224': 224 * 224, 'ADE20K at 512': 512 * 512, 'COCO at 800x1280': 800 * 1280}
OF_METRIC = {'AP_box': 'COCO at 800x1280', 'AP_mask': 'COCO at 800x1280', 'mIoU_ss': 'ADE20K at 512'}


@dataclass(frozen=True)
class Trend:
    """How the advantage of SSM networks changes with L / 6 D among the networks of one task.

    Attributes:
        value (float | None): points of the metric that the advantage grows by where L / 6 D doubles.
        low, high (float | None): ends of the 95 % interval.
        rows, families (int): networks and families that take part; ``families`` counts those with an SSM.
        reason (str): why there is no interval; empty if there is one.
    """

    value: float | None
    low: float | None
    high: float | None
    rows: int
    families: int
    reason: str = ''


@functools.cache
def widths() -> dict[tuple[str, str], int]:
    """Width at stride 16 of the zoo's models, by the family and variant of their published rows."""
    found = {}
    for name in model_names():
        row = named_rows('models.csv')[name]
        with shapes_alone():
            backbone = MODELS.build({**backbone_config(name, 'segmentation'), 'init_cfg': None})
        by_stride = dict(zip(backbone.out_strides, backbone.out_channels))
        if row['family'] and STRIDE in by_stride:
            found.setdefault((row['family'], row['variant']), by_stride[STRIDE])
    return found


def ratio(width: int, place: str) -> float:
    """L / 6 D of a network with ``width`` channels at stride 16, at one of :data:`PIXELS`."""
    return PIXELS[place] / STRIDE**2 / (6 * width)


def with_widths(points: Sequence[Point]) -> list[tuple[Point, int]]:
    """The points whose network is in the zoo, and its width at stride 16."""
    known = widths()
    return [(point, known[point.family, point.variant]) for point in points if (point.family, point.variant) in known]


def trend(points: Sequence[Point]) -> Trend:
    """Estimate how the advantage of the SSM class changes with L / 6 D within one task, at equal ImageNet accuracy."""
    measured = with_widths(points)
    families = sorted({point.family for point, _ in measured})
    ssm = {point.family for point, _ in measured if point.mixer == 'SSM'}
    if len(ssm) < MIN_FAMILIES or len(families) - len(ssm) < MIN_FAMILIES:
        reason = (
            f'{len(ssm)} SSM and {len(families) - len(ssm)} other families in the zoo; an interval needs {MIN_FAMILIES}'
        )
        return Trend(None, None, None, len(measured), len(ssm), reason)
    value = _slope(measured)
    error = jackknife_error(value, [_slope([each for each in measured if each[0].family != name]) for name in families])
    half = float(student.ppf((1 + LEVEL) / 2, len(ssm) - 1)) * error
    return Trend(value, value - half, value + half, len(measured), len(ssm))


def _slope(measured: Sequence[tuple[Point, int]]) -> float:
    """The interaction of SSM and log2(L / 6 D); top-1, the class and the length itself are accounted for."""
    length = np.array(
        [-math.log2(width) for _, width in measured]
    )  # one image size: L / 6 D differs by the width alone
    length -= length.mean()
    ssm = np.array([float(point.mixer == 'SSM') for point, _ in measured])
    top1 = np.array([point.top1 for point, _ in measured])
    classes = [np.array([float(p.mixer == name) for p, _ in measured]) for name in CLASSES[1:]]
    x = np.column_stack([ssm * length, np.ones(len(ssm)), top1 - top1.mean(), length, *classes])
    return float(np.linalg.lstsq(x, np.array([point.score for point, _ in measured]), rcond=None)[0][0])
