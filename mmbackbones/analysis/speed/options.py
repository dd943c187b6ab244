"""The options that the benchmarks of scans and of mixers have in common."""

import argparse
from collections.abc import Iterable

from mmbackbones.analysis.speed.choices import DTYPES
from mmbackbones.choices import canonical_name
from mmbackbones.output_paths import FileOption


def benchmark_parser(description: str, cases: Iterable[str], methods: Iterable[str]) -> argparse.ArgumentParser:
    """The common options of the benchmarks."""
    cases, methods = list(cases), list(methods)
    parser = argparse.ArgumentParser(
        description=f'{description} Interleaved medians with their spread, after a parity check without which no ratio '
        'is given. On CUDA each call is also replayed as a CUDA graph, which no launch delays. Exit status: 0, 1 if '
        'parity fails, 2 for bad usage.'
    )
    parser.add_argument('--cases', nargs='+', choices=cases, default=cases, metavar='CASE', help=', '.join(cases))
    parser.add_argument(
        '--methods',
        nargs='+',
        type=canonical_name,
        choices=methods,
        default=methods,
        metavar='METHOD',
        help=', '.join(methods),
    )
    parser.add_argument(
        '--batch', nargs='+', type=positive, default=[1], metavar='N', help='batches of each case (default: 1)'
    )
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--dtype', choices=DTYPES, default='float32')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads (default: 1)')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument(
        '--csv', action=FileOption, metavar='FILE', help='write the rows with their conditions into this file'
    )
    return parser


def positive(text: str) -> int:
    """A whole number of 1 and more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r}: expected 1 and more')
    return int(text)
