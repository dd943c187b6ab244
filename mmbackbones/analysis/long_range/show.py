"""Accuracy against distance as table, Markdown, figure and CSV, and notes on each task."""

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

from mmbackbones.analysis.figures import new_figure, plot_interval
from mmbackbones.analysis.long_range.curves import Curve
from mmbackbones.analysis.long_range.runs import DEFAULTS, LongRangeRun
from mmbackbones.analysis.tables import markdown_table, write_csv

SETTINGS = (
    'task',
    'tokens',
    'cue_side',
    'distractors',
    'noise',
    'position',
    'steps',
    'images',
    'mixer',
    'seed',
    'shuffled',
)
BIN = ('first', 'last', 'total', 'correct', 'low', 'high')
ABOUT = ('seconds', 'device', 'torch', 'python', 'scan_backend', 'date', 'commit')
# Last, so that tables from before they existed have the same columns before them.
LATER = {name: DEFAULTS[name] for name in ('copies', 'curriculum', 'curriculum_share', 'batch', 'draw', 'precision')}
COLUMNS = (*SETTINGS, *BIN, 'accuracy', *ABOUT, *LATER)
SAYS = {
    'row': 'row tests distance in the image, not sequence length: a scan along rows carries a cue over at most '
    'n - 1 steps. Attention needs a position code to know its row.',
    'routed': 'routed tests routing by content over the whole sequence. A mixer that sees the colours but does not '
    'match the keys can be right in more than a quarter of the cases; chance includes that.',
    'single': 'single tests that training works and that nothing leaks: a mixer that sees the whole image solves it, '
    'and so does a global average. It does not test routing.',
}
SAYS_ALWAYS = (
    'The net has one stage, norms per token and a head per token. The result does not apply to nets of several stages '
    'or to real heads. A mixer that also fails in the near bins did not train, so the result does not show how far it '
    'sees. A causal scan whose cues come later in the sequence gives the same result.'
)


def table(found: Sequence[Curve], title: str) -> Table:
    """Accuracy in % with interval per mixer and bin, measured chance below each mixer."""
    grid = Table('mixer', *found[0].bins, 'seeds', 'verdict', title=title, title_justify='left')
    for row in _rows(found, '  chance', 'cues shuffled'):
        grid.add_row(*row, style='dim' if row[0] == '  chance' else None)
    return grid


def markdown(found: Sequence[Curve]) -> str:
    """The same as a Markdown table."""
    return markdown_table(['mixer', *found[0].bins, 'seeds', 'verdict'], _rows(found, 'its chance', ''))


def _rows(found: Sequence[Curve], chance: str, remark: str) -> Iterator[list[str]]:
    for curve in found:
        cells = [
            f'{100 * mean:.1f} ({100 * low:.0f}-{100 * high:.0f})'
            for mean, low, high in zip(curve.mean, curve.low, curve.high)
        ]
        yield [curve.mixer, *cells, str(curve.seeds), curve.verdict()]
        if curve.chance_seeds:
            yield [chance, *(f'{100 * value:.1f}' for value in curve.chance), str(curve.chance_seeds), remark]


def draw(found: Sequence[Curve], title: str = '') -> Figure:
    """Accuracy against distance with intervals, and the mean of the measured chances."""
    figure = new_figure(7, 4.2)
    axes = figure.subplots()
    places = range(len(found[0].bins))
    for number, curve in enumerate(found):
        shift = 0.05 * (number - (len(found) - 1) / 2)  # so that curves at one height stay visible
        mean, low, high = ([100 * value for value in values] for values in (curve.mean, curve.low, curve.high))
        plot_interval(axes, [place + shift for place in places], mean, low, high, curve.mixer, number)
    chance = [100 * statistics.fmean(values) for values in zip(*(curve.chance for curve in found))]
    measured = all(curve.chance_seeds for curve in found)
    axes.plot(places, chance, color='0.4', linestyle='--', label='chance, cues shuffled' if measured else 'chance')
    axes.set_xticks(places, found[0].bins)
    axes.set(xlabel='distance to the deciding cue (tokens)', ylabel='accuracy (%)', ylim=(0, 104))
    axes.set_title(title, loc='left', fontsize='medium')
    axes.grid(alpha=0.3)
    axes.legend(fontsize='small')
    return figure


def grid_name(tokens: int | Sequence[int]) -> str | int:
    """``'16x32'`` of rows and columns; the side of a square grid as it is."""
    return tokens if isinstance(tokens, int) else 'x'.join(map(str, tokens))


def more_settings(run: LongRangeRun) -> str:
    """Text such as ``', curriculum grid'`` about the settings that are not at their defaults."""
    settings = run.settings()
    return ''.join(f', {name.replace("_", " ")} {settings[name]}' for name in DEFAULTS if name in settings)


def write_runs(path: Path, records: Sequence[dict]) -> None:
    """One line per run and distance bin, with settings, device, versions, date and commit on each.

    Raises:
        InputError: the file cannot be written.
    """
    rows = []
    for record in records:
        about = [
            record['result']['seconds'],
            record['device'],
            record['versions']['torch'],
            record['python'],
            record['scan_backend'],
            record['date'][:10],
            record['commit'],
        ]
        for each in record['result']['bins']:
            accuracy = each['correct'] / max(1, each['total'])
            settings = {**LATER, **record['settings'], 'tokens': grid_name(record['settings']['tokens'])}
            row = [*(settings[key] for key in SETTINGS), *(each[key] for key in BIN), f'{accuracy:.4f}', *about]
            rows.append([*row, *('' if settings[key] is None else settings[key] for key in LATER)])
    write_csv(path, COLUMNS, rows)
