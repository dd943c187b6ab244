"""Time whole token mixers, fused and not: tools/analysis/benchmark_mixers.py [--cases vim-t-512 ...] [--csv FILE]."""

import argparse
import sys

import torch
from rich.console import Console
from rich.table import Table

from mmbackbones.analysis.speed.mixers import CASES, METHODS, PARITY, benchmark, environment
from mmbackbones.analysis.speed.scan import write_csv
from mmbackbones.engine.cli import run_command

DTYPES = {str(dtype).removeprefix('torch.'): dtype for dtype in PARITY}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Vim's and VMamba's mixers on one image: fused, composed, with the copies of the published blocks, "
        'and with those around the official kernel. Interleaved medians, after a parity check without which no ratio '
        'is given. Exit status: 0, 1 if parity fails, 2 for bad usage.'
    )
    parser.add_argument('--cases', nargs='+', choices=CASES, default=list(CASES), metavar='CASE', help=', '.join(CASES))
    parser.add_argument(
        '--methods', nargs='+', choices=METHODS, default=list(METHODS), metavar='METHOD', help=', '.join(METHODS)
    )
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--dtype', choices=DTYPES, default='float32', help='half precision by autocast')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads (default: 1)')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--csv', metavar='FILE', help='write the rows with their conditions into this file')
    args = parser.parse_args(argv)

    torch.set_num_threads(args.threads)
    conditions = environment(args.device, DTYPES[args.dtype])
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(', '.join(conditions.values()), soft_wrap=True)
    rows = []
    for case in args.cases:
        table = Table('pass', 'method', 'median ms', 'spread ms', 'x base', 'peak MB', 'parity', 'note')
        for row in benchmark(case, args.methods, args.device, DTYPES[args.dtype], args.rounds):
            rows.append(row)
            times = [''] * 2
            if row.seconds:
                times = [f'{1e3 * row.median:.3f}', f'{1e3 * min(row.seconds):.3f}-{1e3 * max(row.seconds):.3f}']
            table.add_row(
                row.direction,
                row.method,
                *times,
                '' if row.ratio is None else f'{row.ratio:.3g}',
                '' if row.peak is None else f'{row.peak / 1e6:.0f}',
                '' if row.parity is None else f'{row.parity:.1e}',
                row.note,
            )
        console.print(f'{case} {rows[-1].shape}')
        console.print(table)
        if args.csv:
            write_csv(rows, args.csv, conditions)
    if any(row.note.startswith('PARITY') for row in rows):
        sys.exit(1)


if __name__ == '__main__':
    run_command(main)
