"""The report's sections on sequence length: scores and cost against tokens, and the synthetic long-range task."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmbackbones.analysis.figures import new_figure
from mmbackbones.analysis.long_range.curves import interval_kind
from mmbackbones.analysis.long_range.show import SAYS, SAYS_ALWAYS
from mmbackbones.analysis.long_range.show import draw as draw_curves
from mmbackbones.analysis.report.gather import LongRangeCurves, ReportData, Sweep
from mmbackbones.analysis.report.page import Figure, Section, Table
from mmbackbones.analysis.tokens.sweep_points import by_metric
from mmbackbones.analysis.tokens.sweep_points import draw as draw_sweep

LONG = (
    'L tokens are long for width D when L > 6 D: from there on the quadratic term of attention '
    'costs more than everything linear (24 D^2 L + 4 D L^2 FLOPs per Transformer block).'
)


def against_tokens(data: ReportData) -> Section:
    """Token counts of the data sets, and scores of resolution sweeps."""
    blocks = [_lengths(data.tokens), LONG] if data.tokens else []
    if data.sweeps:
        blocks += _sweeps(data.sweeps)
    return Section('Scores against tokens', blocks)


def _lengths(records: Sequence[dict]) -> Table:
    columns = {
        'stride': 'stride',
        'width D': 'channels',
        'median tokens L': 'median',
        '6 D': 'threshold_6D',
        'median L / (6 D)': 'r_median',
    }
    rows = []
    for record in records:
        metrics = record['metrics']
        for stage in sorted({key.partition('.')[0] for key in metrics}):
            rows.append(
                [
                    Path(record['config']).stem,
                    stage.removeprefix('stage'),
                    *(metrics[f'{stage}.{key}'] for key in columns.values()),
                    100 * metrics[f'{stage}.long_share'],
                ]
            )
    header = ['config', 'stage', *columns, '% of images that are long']
    return Table('tokens', 'How long the sequences are, by stage.', header, rows)


def _sweeps(sweeps: Sequence[Sweep]) -> list[Figure | Table]:
    points = [(sweep, point) for sweep in sweeps for point in sweep.points]
    drawn = {
        f'{sweep.config[:40]}: {metric}': curve for sweep in sweeps for metric, curve in by_metric(sweep.points).items()
    }
    return [
        Figure(
            'resolution-sweep',
            'Scores against the number of tokens, with 95 % intervals over the test images.',
            'Scores in percent against tokens per image, a curve for each run and metric: '
            + '; '.join(f'{point.metric} {point.score:.1f} at {point.size} px' for _, point in points[:12]),
            draw_sweep(drawn),
        ),
        Table(
            'resolution-sweep',
            'Scores in percent by input size, with 95 % intervals over the test images.',
            ['config', 'at that size', 'metric', 'short side (px)', 'tokens', 'score', 'low', 'high'],
            [
                [
                    sweep.config,
                    'trained' if sweep.trained else 'tested',
                    point.metric,
                    point.size,
                    *(_known(value) for value in (point.tokens, point.score, point.low, point.high)),
                ]
                for sweep, point in points
            ],
        ),
    ]


def _known(value: float) -> float | None:
    """None for NaN: an empty cell."""
    return None if math.isnan(value) else value


def cost(timings: Mapping[str, Sequence[dict]]) -> Section:
    """Time and memory against tokens, by conditions."""
    title = 'Cost against tokens'
    if not timings:
        return Section(title)
    rows = [
        [
            setup,
            record['size'],
            *(record['metrics'][key] for key in ('tokens', 'median_ms', 'min_ms', 'max_ms', 'peak_mb')),
            record['note'] or None,
            record['commit'],
        ]
        for setup, group in timings.items()
        for record in group
    ]
    columns = ['set-up', 'side (px)', 'tokens', 'median (ms)', 'fastest', 'slowest', 'peak memory (MB)']
    return Section(
        title,
        [
            _cost_figure(timings),
            Table(
                'cost',
                'Medians with their range; only figures of one call may be set against each other.',
                [*columns, 'note', 'commit'],
                rows,
            ),
        ],
    )


def _cost_figure(timings: Mapping[str, Sequence[dict]]) -> Figure:
    canvas = new_figure()
    axes = canvas.subplots()
    for group in timings.values():
        timed = sorted(
            (record['metrics']['tokens'], record['metrics']['median_ms'])
            for record in group
            if record['metrics']['median_ms']
        )
        if timed:
            axes.plot(*zip(*timed), marker='o', label=_short(group[0]))
    axes.set(xlabel='tokens per image', ylabel='ms per batch', xscale='log', yscale='log')
    axes.legend(fontsize=6)
    return Figure(
        'cost',
        'Median time against tokens.',
        f'Time per batch against tokens per image on logarithmic axes, a curve for each of {len(timings)} set-ups',
        canvas,
    )


def _short(record: dict) -> str:
    network = record['config'].removeprefix('mask-rcnn_').partition('_')[0]
    return ', '.join(filter(None, [network, record['part'], record['step'], record['attention'], record['precision']]))


def long_range(found: Sequence[LongRangeCurves]) -> Section:
    """Accuracy against distance to the cue, with notes on each task."""
    title = 'The synthetic long-range task'
    if not found:
        return Section(title)
    blocks = []
    for number, each in enumerate(found):
        name = f'long-range-{number}-{each.task}'
        blocks += [
            Figure(
                name,
                f'Accuracy against distance to the cue: {each.title}; {interval_kind(each.curves)}.',
                'Accuracy in percent against distance in tokens, a curve for each mixer: '
                + '; '.join(
                    f'{curve.mixer} from {100 * curve.mean[0]:.0f} to {100 * curve.mean[-1]:.0f}'
                    for curve in each.curves
                ),
                draw_curves(each.curves),
            ),
            Table(
                name,
                f'Accuracy in percent by distance: {each.title}.',
                ['mixer', *each.curves[0].bins, 'seeds', 'verdict'],
                [
                    [curve.mixer, *(100 * mean for mean in curve.mean), curve.seeds, curve.verdict()]
                    for curve in each.curves
                ],
            ),
            SAYS[each.task],
        ]
    return Section(title, [*blocks, SAYS_ALWAYS])
