"""Scores of a resolution sweep: points with intervals, as CSV, figure and record."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from mmbackbones.analysis.figures import new_figure, plot_interval
from mmbackbones.analysis.records import config_record
from mmbackbones.analysis.tables import rich_table, write_csv
from mmbackbones.engine.config import load_config
from mmbackbones.evaluation.bootstrap import draw_counts, interval
from mmbackbones.evaluation.predictions import FinishedRun, Sample, annotation_file, load_run, tokens_of
from mmbackbones.evaluation.records import plain_floats
from mmbackbones.evaluation.scores import score

KIND = 'resolution_sweep'


@dataclass
class SweepPoint:
    """One metric at one size.

    Attributes:
        size (int): short side of the input in pixels.
        tokens (float): mean over the images, at 16 x 16 pixels per token; NaN if the pipeline makes it unknown.
        metric (str): ``'box AP'``, ``'mask AP'`` or ``'mIoU'``.
        score, low, high (float): score in percent, and the ends of its 95 % interval over images.
        difference, difference_low, difference_high (float): difference from the smallest size, on the same draws.
        images (int): number of resampled images.
    """

    size: int
    tokens: float
    metric: str
    score: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    images: int


def measure(runs: dict[int, FinishedRun], resamples: int = 1000, seed: int = 0) -> list[SweepPoint]:
    """Score runs at several sizes, with intervals, by size.

    Raises:
        InputError: predictions are missing or damaged.
    """
    first = runs[min(runs)]
    annotations = annotation_file(first) if first.record['task'] == 'detection' else None
    sample = Sample(first, annotations)
    counts = draw_counts(len(sample.image_ids), resamples, seed)
    points, base = [], {}
    for size, run in sorted(runs.items()):
        tokens = tokens_of(run.record['settings'], sample.sizes)
        for (metric, *_), values in score(run, sample, counts, splits=()).items():
            gaps = values - base.setdefault(metric, values)
            points.append(
                SweepPoint(
                    size,
                    float('nan') if tokens is None else float(tokens.mean()),
                    metric,
                    float(values[0]),
                    *interval(values[1:]),
                    float(gaps[0]),
                    *interval(gaps[1:]),
                    len(sample.image_ids),
                )
            )
    return points


def points_of(record: dict) -> list[SweepPoint]:
    """The points of a record, see :func:`to_record`."""
    return [
        SweepPoint(**{key: float('nan') if value is None else value for key, value in point.items()})
        for point in record['points']
    ]


COLUMNS = tuple(field.name for field in dataclasses.fields(SweepPoint))


def write_points(path: Path, points: Sequence[SweepPoint]) -> None:
    """One line per point by :data:`COLUMNS`.

    Raises:
        InputError: the file cannot be written.
    """
    write_csv(path, COLUMNS, map(dataclasses.asdict, points), '.4f')


def table(points: Sequence[SweepPoint]) -> Table:
    """The points for the terminal."""
    rows = [
        [
            point.size,
            f'{point.tokens:,.0f}',
            point.metric,
            f'{point.score:.2f}',
            f'{point.low:.2f} to {point.high:.2f}',
            f'{point.difference:+.2f}',
            f'{point.difference_low:+.2f} to {point.difference_high:+.2f}',
        ]
        for point in points
    ]
    columns = ('size', 'tokens', 'metric', 'score', '95 % interval', 'against the smallest', '95 % interval')
    return rich_table(columns, rows)


def by_metric(points: Sequence[SweepPoint]) -> dict[str, list[SweepPoint]]:
    """The points of each metric, one curve of :func:`draw` per metric."""
    return {
        metric: [point for point in points if point.metric == metric]
        for metric in dict.fromkeys(point.metric for point in points)
    }


def draw(curves: Mapping[str, Sequence[SweepPoint]], title: str = '') -> Figure:
    """Scores with intervals against tokens, or against the short side if the tokens of a point are not known.

    Args:
        curves: points of one metric each, by label.
        title: title of the figure.
    """
    hidden = any(np.isnan(point.tokens) for points in curves.values() for point in points)
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for number, (label, points) in enumerate(curves.items()):
        x = [point.size if hidden else point.tokens for point in points]
        columns = ([getattr(point, name) for point in points] for name in ('score', 'low', 'high'))
        plot_interval(axes, x, *columns, label, number)
    axes.set_xlabel('short side (px)' if hidden else 'tokens per image (16 x 16 px)')
    axes.set_ylabel('score (%), 95 % interval over images')
    axes.set_title(title, fontsize='medium')
    axes.grid(alpha=0.3)
    axes.legend(fontsize='small')
    return figure


def to_record(points: Sequence[SweepPoint], config: str, folder: Path, sizes: Sequence[int], seed: int) -> dict:
    """The record of a sweep, see :mod:`mmbackbones.evaluation.records`."""
    run = load_run(folder / str(min(point.size for point in points))).record
    shared = {key: run[key] for key in ('task', 'recipe', 'data_fingerprint', 'seed', 'precision', 'scan_backend')}
    return plain_floats(
        config_record(
            KIND,
            load_config(config),
            config,
            {f'{point.metric} at {point.size} px': point.score for point in points},
            trained=run['kind'],
            sizes=sorted(sizes),
            bootstrap_seed=seed,
            checkpoint=run.get('checkpoint'),
            points=[dataclasses.asdict(point) for point in points],
            **shared,
        )
    )
