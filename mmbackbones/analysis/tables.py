"""Tables as CSV, as Markdown and on the terminal, and the files of an analysis, which are whole or absent.

:func:`write_file` writes every file, so that no table is ever half-written. If a path cannot be written, the command
ends with one line that names it.
"""

import csv
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from mmbackbones.checkpoints.atomic import write_shared
from mmbackbones.errors import InputError

Cells = Mapping[str, object] | Sequence[object]  # cells by column name, or in the order of the columns


def write_csv(
    path: str | Path,
    columns: Sequence[str],
    rows: Iterable[Cells],
    digits: str = '',
    conditions: Mapping[str, object] | None = None,
) -> None:
    """Write a table with a header line.

    Args:
        path: the file; an earlier one is replaced.
        columns: names, in order.
        rows: rows of cells. None is an empty cell.
        digits: format of floats, such as ``'.4g'``; by default all their digits.
        conditions: more columns with the same value on every line, such as device and date.

    Raises:
        InputError: the file cannot be written.
    """
    conditions = conditions or {}
    text = io.StringIO(newline='')
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow([*columns, *conditions])
    for row in rows:
        writer.writerow([cell(value, digits) for value in (*_cells(row, columns), *conditions.values())])
    write_file(path, text.getvalue())


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """Lines of a table by column name.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with open(path, newline='') as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f'{path}: no readable CSV file ({_reason(error)})') from error


def markdown_table(columns: Sequence[str], rows: Iterable[Cells], digits: str = '') -> str:
    """The same as a Markdown table. The last line ends with a newline."""
    lines = [columns, ['---'] * len(columns)]
    lines += [[cell(value, digits).replace('|', '\\|') for value in _cells(row, columns)] for row in rows]
    return ''.join('| ' + ' | '.join(line) + ' |\n' for line in lines)


def rich_table(
    columns: Sequence[str | Column], rows: Iterable[Sequence[object]], digits: str = '', **options: Any
) -> Table:
    """The same for :func:`show`; ``options`` are those of rich's ``Table``, such as ``title``."""
    table = Table(*columns, **options)
    for row in rows:
        table.add_row(*(cell(value, digits) for value in row))
    return table


def show(*parts: Table | str, width: int = 150) -> None:
    """Print tables and sentences with the width of the terminal, or ``width`` characters without a terminal."""
    console = Console(width=None if sys.stdout.isatty() else width, highlight=False, emoji=False)
    for part in parts:
        if isinstance(part, str):
            console.print(part, soft_wrap=True, markup=False)
        else:
            console.print(part)


def cell(value: object, digits: str = '') -> str:
    """Text of a value: empty for None, ``digits`` for a float."""
    if value is None:
        return ''
    return format(value, digits) if isinstance(value, float) else str(value)


def _cells(row: Cells, columns: Sequence[str]) -> list[object]:
    return [row[name] for name in columns] if isinstance(row, Mapping) else list(row)


def write_file(path: str | Path, content: str | bytes) -> None:
    """Write a file that is whole or absent, and make its parent folders. A device or pipe is written directly.

    Raises:
        InputError: it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    path = Path(path).resolve() if Path(path).is_symlink() else Path(path)  # the file behind a link, not the link
    if path.is_dir():
        raise InputError(f'{path}: cannot be written (it is a folder)')
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
        else:
            write_shared(path, data)
    except OSError as error:
        raise InputError(f'{path}: cannot be written ({_reason(error)})') from error


def make_folder(path: str | Path, option: str = '--out') -> Path:
    """Make a folder and its parents if it does not exist.

    Args:
        path: the folder.
        option: option that named it, for the message.

    Raises:
        InputError: it cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'{option} {path}: cannot be a folder ({_reason(error)})') from error
    return Path(path)


def _reason(error: Exception) -> str:
    return getattr(error, 'strerror', None) or ' '.join(str(error).split())
