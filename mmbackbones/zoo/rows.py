"""The tables of the zoo as rows: read once, never written."""

import csv
import functools
from pathlib import Path

FOLDER = Path(__file__).parent


@functools.cache
def read_rows(file: str) -> list[dict[str, str]]:
    """Rows of a table. ``file`` is relative to this folder."""
    with (FOLDER / file).open(newline='', encoding='utf-8') as lines:
        return list(csv.DictReader(lines))


@functools.cache
def named_rows(file: str) -> dict[str, dict[str, str]]:
    """Rows of ``models.csv`` or ``miniatures.csv`` by name, in the order of the table."""
    return {row['name']: row for row in read_rows(file)}
