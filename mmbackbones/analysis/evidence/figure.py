"""Dense scores against ImageNet accuracy, one colour per mixer class, with the residuals of the common line beside."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmbackbones.analysis.evidence.points import CLASSES, Point
from mmbackbones.analysis.evidence.regression import residuals
from mmbackbones.analysis.figures import MARKERS, new_figure

NAMES = {'AP_box': 'box AP, Mask R-CNN 1x', 'AP_mask': 'mask AP, Mask R-CNN 1x', 'mIoU_ss': 'mIoU, UperNet 160k'}
# Okabe and Ito's, which the colour-blind tell apart too.
COLORS = dict(zip(CLASSES, ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#7f7f7f')))


def draw(points: dict[str, list[Point]]) -> Figure:
    """One row of panels for each metric of ``points``: the scores on the left, the residuals by class on the right."""
    figure = new_figure(10, 4 * len(points))
    panels = figure.subplots(len(points), 2, squeeze=False, width_ratios=(2, 1))
    for (scores, beside), (metric, group) in zip(panels, points.items()):
        _scores(scores, group)
        scores.set(xlabel='ImageNet-1K top-1 at 224 px (%)', ylabel=NAMES[metric])
        _residuals(beside, group)
        beside.set(ylabel='above the common line')
    panels[0][0].legend(loc='lower right', frameon=False)
    return figure


def _scores(axes: Axes, points: Sequence[Point]) -> None:
    for family, members in groupby(sorted(points, key=lambda p: (p.family, p.top1)), key=lambda p: p.family):
        line = list(members)
        axes.plot([p.top1 for p in line], [p.score for p in line], color=COLORS[line[-1].mixer], lw=0.8, alpha=0.6)
        axes.annotate(family, (line[-1].top1, line[-1].score), (3, 2), textcoords='offset points', fontsize=6)
    for number, mixer in enumerate(CLASSES):
        of = [p for p in points if p.mixer == mixer]
        axes.scatter(
            [p.top1 for p in of], [p.score for p in of], s=18, c=COLORS[mixer], marker=MARKERS[number], label=mixer
        )
    top1 = np.array([p.top1 for p in points])
    line = np.array([p.score for p in points]) - residuals(points)
    order = np.argsort(top1)
    axes.plot(top1[order], line[order], color='black', lw=1, ls='--')


def _residuals(axes: Axes, points: Sequence[Point]) -> None:
    beside = residuals(points)
    axes.axhline(0, color='black', lw=1, ls='--')
    for number, mixer in enumerate(CLASSES):
        values = [value for point, value in zip(points, beside) if point.mixer == mixer]
        # Spread in the order of the points, so that equal values do not hide each other.
        places = number + np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else [number] * len(values)
        axes.scatter(places, values, s=14, c=COLORS[mixer], marker=MARKERS[number])
        if values:
            axes.plot([number - 0.3, number + 0.3], [np.mean(values)] * 2, color=COLORS[mixer])
    axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=30, ha='right', fontsize=8)
