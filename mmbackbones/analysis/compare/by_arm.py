"""Rows of the results table by arm: runs that differ only in their seed are one row, with mean and range."""

from collections.abc import Sequence

from rich.table import Column, Table

from mmbackbones.analysis.compare.results import COLUMNS, SCORES, Result, Results
from mmbackbones.analysis.tables import markdown_table, rich_table
from mmbackbones.evaluation.records import arm_of

HEADS = {'seed': 'seeds'}
MEANS = 'scores in percent, mean (range) over seeds'


def arm_rows(results: Sequence[Result], table: int) -> list[dict[str, str]]:
    """Texts by the columns of :meth:`Result.row`. ``seed`` lists all seeds; scores are means with their range.

    Args:
        results: comparable results.
        table: number of their table.
    """
    arms: dict[str, list[Result]] = {}
    for result in results:
        arms.setdefault(arm_of(dict(result.record, tta=False)), []).append(result)
    return [_merge([result.row(table, '.9g') for result in arm]) for arm in arms.values()]


def mean_and_range(values: Sequence[float], runs: int) -> str:
    """``'45.1 (44.8 to 45.3)'``, of one value ``'45.1'``; with the number of values if it is not that of the runs."""
    if not values:
        return ''
    text = f'{sum(values) / len(values):.1f}'
    more = [f'{min(values):.1f} to {max(values):.1f}'] if len(values) > 1 else []
    more += [f'{len(values)} of {runs} runs'] if runs != len(values) else []
    return f'{text} ({", ".join(more)})' if more else text


def _merge(rows: Sequence[dict[str, str]]) -> dict[str, str]:
    merged = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if row.get(name)]
        if name in SCORES or name not in COLUMNS:
            merged[name] = mean_and_range([float(value) for value in values], len(rows))
        elif name == 'training (h)':
            merged[name] = f'{sum(map(float, values)) / len(values):.2f}' if values else ''
        elif name == 'seed':
            merged[name] = ', '.join(values)
        else:
            parts = [part for value in values for part in value.split('; ')]
            merged[name] = '; '.join(dict.fromkeys(parts))
    return merged


def shown_columns(found: Results, rows: Sequence[dict[str, str]]) -> list[str]:
    """Columns that fit a page: scores, cost and published results, if there are any."""
    hidden = ('table', 'source', 'work dir', 'date', 'commit', 'device', 'published row')
    return [name for name in found.columns() if name not in hidden and any(row.get(name) for row in rows)]


def shown_tables(found: Results) -> list[Table]:
    """The tables for the terminal, with the columns that fit."""
    tables = []
    for number in range(1, len(found.tables) + 1):
        rows = arm_rows(found.tables[number - 1], number)
        names = shown_columns(found, rows)
        columns = [Column(HEADS.get(name, name), overflow='fold') for name in names]
        tables.append(
            rich_table(
                columns, [[row.get(name, '') for name in names] for row in rows], title=f'table {number}: {MEANS}'
            )
        )
    return tables


def to_markdown(found: Results) -> str:
    """The tables with their notes, sources and left out work dirs."""
    lines = []
    for number in range(1, len(found.tables) + 1):
        rows = arm_rows(found.tables[number - 1], number)
        names = shown_columns(found, rows)
        lines += [
            f'Table {number}: {found.tables[number - 1][0].record["task"]}, recipe {rows[0]["recipe"]}; {MEANS}',
            '',
        ]
        lines.append(
            markdown_table(
                [HEADS.get(name, name) for name in names], [[row.get(name, '') for name in names] for row in rows]
            )
        )
    lines += [f'- {sentence}' for sentence in found.apart + found.notes]
    lines += [f'- {work_dir}: {reason}' for work_dir, reason in found.left_out.items()]
    sources = dict.fromkeys(f'{row["published row"]}: {row["source"]}' for row in found.rows() if row['source'])
    lines += [f'- published {source}' for source in sources]
    return '\n'.join(lines) + '\n'
