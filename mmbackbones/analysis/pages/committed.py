"""Committed tables of ``benchmarks/``, read for the generated parts of pages."""

from itertools import groupby
from pathlib import Path
from typing import Any

from mmbackbones.analysis.long_range.curves import Curve, curves
from mmbackbones.analysis.tables import read_csv
from mmbackbones.choices import canonical_name

Rows = list[dict[str, str]]
# Columns of committed tables; an earlier release wrote other names.
NAMES_OF_BACKENDS = ('method', 'backend', 'scan_backend')


def read(root: Path, name: str) -> Rows:
    """Rows of a committed table, by column, with the canonical names of backends."""
    rows = read_csv(root / 'benchmarks' / name)
    return [{key: canonical_name(x) if key in NAMES_OF_BACKENDS else x for key, x in row.items()} for row in rows]


def distinct(rows: Rows, column: str) -> str:
    """The values of a column, each once."""
    return ', '.join(sorted({row[column] for row in rows}))


def long_range_curves(rows: Rows) -> list[Curve]:
    """Accuracy against distance of each mixer in a table of the synthetic long-range task."""
    records: list[dict] = []
    for run, group in groupby(rows, lambda row: (row['mixer'], row['seed'], row['shuffled'])):
        bins: list[dict[str, Any]] = [
            dict(first=row['first'], last=row['last'], correct=int(row['correct']), total=int(row['total']))
            | dict(low=float(row['low']), high=float(row['high']))
            for row in group
        ]
        settings = dict(mixer=run[0], seed=run[1], shuffled=run[2] == 'True')
        settings |= dict(task=rows[0]['task'], cue_side=rows[0]['cue_side'], distractors=int(rows[0]['distractors']))
        metrics = {f'{each["first"]}-{each["last"]}': each['correct'] / each['total'] for each in bins}
        records.append(dict(settings=settings, metrics=metrics, result=dict(bins=bins)))
    return curves(records)
