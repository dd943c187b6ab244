"""Time and memory of a backbone's forward pass: tools/analysis/speed.py CONFIG [--sizes 512 1024] [--csv FILE]."""

import argparse
import sys

from rich.console import Console
from rich.table import Table

from mmbackbones.analysis.speed import conditions, measure, write_csv
from mmbackbones.engine.cli import run_command
from mmbackbones.ops.selective_scan.dispatch import BACKENDS


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description='Forward pass of the backbone alone on one square image, float32, CPU. Each backend of the '
        'selective scan at each size runs in a process of its own, in turns; memory is the peak above model and image.')
    parser.add_argument('config')
    parser.add_argument('--sizes', nargs='+', type=int, default=[512, 1024, 1248, 2048], metavar='PX')
    parser.add_argument('--backends', nargs='+', choices=BACKENDS, default=[], metavar='BACKEND',
                        help=f'{", ".join(BACKENDS)}; ratios are to the first (default: the one chosen for CPUs)')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--csv', metavar='FILE', help='write the rows with their conditions into this file')
    args = parser.parse_args(argv)

    about, rows = conditions(args.config, args.threads), []
    print(', '.join(about.values()))
    table = Table('size', 'tokens', 'backend', 'median ms', 'spread ms', 'x first', 'peak MB', 'bytes/token')
    for row in measure(args.config, args.sizes, args.backends, args.rounds, args.threads):
        rows.append(row)
        memory = ['', ''] if row.peak is None else [f'{row.peak / 1e6:.0f}', f'{row.peak / row.tokens:.0f}']
        table.add_row(
            str(row.size), str(row.tokens), row.backend, f'{1e3 * row.median:.1f}',
            f'{1e3 * min(row.seconds):.1f}-{1e3 * max(row.seconds):.1f}', f'{row.ratio:.3g}', *memory)
        if args.csv:
            write_csv(rows, args.csv, about)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == '__main__':
    run_command(main)
