"""One results table from records: tools/analysis/collect.py WORK_DIR [...] [--csv FILE] [--markdown FILE]."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from mmbackbones.analysis.compare.collect import collect, shown_columns, to_markdown, write_csv
from mmbackbones.engine.cli import run_command


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description='Scores of last checkpoints beside published ones. Runs that may not be compared stand in tables '
        'of their own; incomplete, mixed and stale ones are listed with the reason.'
    )
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='of a run, or a folder of them')
    parser.add_argument('--csv', type=Path, metavar='FILE', help='all columns')
    parser.add_argument('--markdown', type=Path, metavar='FILE')
    args = parser.parse_args(argv)

    found = collect(args.work_dirs)
    rows = found.rows()
    if args.csv:
        write_csv(rows, args.csv)
    if args.markdown:
        args.markdown.write_text(to_markdown(found))
    console = Console(width=None if sys.stdout.isatty() else 180, highlight=False)
    for number in range(1, len(found.tables) + 1):
        members = [row for row in rows if row['table'] == str(number)]
        names = shown_columns(members)
        table = Table(*(Column(name, overflow='fold') for name in names), title=f'table {number}')
        for row in members:
            table.add_row(*(row[name] for name in names))
        console.print(table)
    for sentence in [*found.apart, *found.notes, *(f'{path}: {why}' for path, why in found.left_out.items())]:
        console.print(sentence, soft_wrap=True, markup=False)


if __name__ == '__main__':
    run_command(main)
