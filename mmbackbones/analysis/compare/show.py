"""A comparison as tables and sentences. Below three seeds per arm there is no p-value in either."""

from collections.abc import Sequence

import numpy as np
from rich.table import Column, Table

from mmbackbones.analysis.compare.comparison import Comparison, Difference
from mmbackbones.analysis.tables import rich_table
from mmbackbones.evaluation.bootstrap import SEEDS_FOR_METHODS

LEVEL = 0.05
NUMBERS = ('mean', 'range over seeds', 'difference', '95 % interval')  # columns that are not wrapped
# What an interval covers, and of what it speaks.
COVERS = {'methods': 'seeds and images: the methods', 'checkpoints': 'images: these checkpoints'}


def sentence(row: Difference, arms: int) -> str:
    """The conclusion from a difference; ``arms`` are those of the comparison."""
    methods = row.about == 'methods'
    who, source = ('the methods', 'seeds and images') if methods else ('these checkpoints', 'images')
    text = (
        f'{row.metric}: {row.arm} {_score(row.by_run, row.score)}, '
        f'{row.reference} {_score(row.reference_by_run, row.reference_score)}, difference '
        f'{row.difference:+.2f} (95 % interval {row.low:+.2f} to {row.high:+.2f} over {source}'
    )
    text += f', p {row.p_holm:.3g}' if methods else ''
    text += f'{"" if methods else ", judged"} after Holm for {arms - 1} comparisons). ' if arms > 2 else '). '
    if np.isnan(row.difference) or np.isnan(row.low):
        text += 'Nothing can be concluded: there is nothing to score.'
    elif row.p_holm < LEVEL:
        text += f'{who.capitalize()} differ by more than the choice of {source} explains.'
    else:
        text += f'No difference between {who} is shown.'
    if methods and row.seeds < 10:
        text += f' With {row.seeds} seeds the interval is narrower than it should be (docs/compare.md).'
    if not methods:
        text += (
            ' This is about these checkpoints, not the methods: another seed may give another difference, and '
            f'only {SEEDS_FOR_METHODS} seeds and more per arm tell.'
        )
    return text


def _score(runs: Sequence[float], score: float) -> str:
    return f'{score:.2f}' + (f' ({range_of(runs)} over {len(runs)} runs)' if len(runs) > 1 else '')


def range_of(values: Sequence[float]) -> str:
    """``'44.82 to 45.31'``; empty for one value."""
    return f'{min(values):.2f} to {max(values):.2f}' if len(values) > 1 else ''


def difference_rows(rows: Sequence[Difference], several: bool) -> tuple[list[str], list[list[str]]]:
    """Header and cells of a table of differences in one split: the reference of each metric and group, then its arms.

    Args:
        rows: of one split.
        several: whether there are several groups or arms, so that p-values are corrected.
    """
    split = rows[0].split
    part = [] if split == 'all' else [split]
    methods = any(row.about == 'methods' for row in rows)
    header = ['metric', *part, 'arm', 'seeds', 'mean', 'range over seeds', 'difference', '95 % interval']
    header += ['interval over', *(['p (Holm)' if several else 'p'] if methods else [])]
    groups: dict[tuple[str, str], list[Difference]] = {}
    for row in rows:
        groups.setdefault((row.metric, row.group), []).append(row)
    cells = []
    for (metric, name), group in groups.items():
        head, one = [metric, *([name] if part else [])], group[0]
        score, scores = f'{one.reference_score:.2f}', range_of(one.reference_by_run)
        cells.append(
            [*head, one.reference, str(one.reference_seeds), score, scores, 'reference', '', '', *[''] * methods]
        )
        for row in group:
            line = [*head, row.arm, str(row.arm_seeds), f'{row.score:.2f}', range_of(row.by_run) or 'one run']
            line += [f'{row.difference:+.2f}', f'{row.low:+.2f} to {row.high:+.2f}', COVERS[row.about]]
            p = f'{row.p_holm if several else row.p:.3g}' if row.about == 'methods' else ''
            cells.append([*line, *[p] * methods])
    return header, cells


def tables(comparison: Comparison) -> list[Table]:
    """One table for the whole data and one for each split."""
    shown = []
    for split in dict.fromkeys(row.split for row in comparison.differences):
        rows = [row for row in comparison.differences if row.split == split]
        header, cells = difference_rows(rows, len(comparison.arms) > 2 or split != 'all')
        columns = [
            Column(name, overflow='fold', no_wrap=name in ('mean', 'difference', '95 % interval')) for name in header
        ]
        title = 'all images' if split == 'all' else f'by {split}'
        shown.append(rich_table(columns, cells, title=f'{title}, scores in percent'))
    return shown
