"""Parameters and MACs of the controlled arms: tools/analysis/controlled.py [ARCH] [--equal KIND] [--csv FILE]."""

import argparse
import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.analysis.complexity.choices import MIXERS
from mmbackbones.engine.command import run_command
from mmbackbones.layers.arms import MATCHED, MATCHED_SIDE


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description='Count the backbone of every arm and compare it with MambaOut.')
    parser.add_argument('arch', nargs='?', default='tiny', help=f'one of {", ".join(MATCHED)} (default: tiny)')
    parser.add_argument(
        '--shape',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        default=(MATCHED_SIDE, MATCHED_SIDE),
        help='image size in pixels (default: 224 224)',
    )
    parser.add_argument(
        '--equal',
        choices=('params', 'macs'),
        help='count the width-adjusted arms for training from scratch; MACs are equal at 224 px',
    )
    parser.add_argument(
        '--mixers',
        nargs='+',
        choices=MIXERS,
        metavar='NAME',
        help=f'some of {", ".join(MIXERS)} (default: all)',
    )
    parser.add_argument('--csv', metavar='FILE', help='write one line per arm to this file')
    args = parser.parse_args(argv)

    from rich.console import Console
    from rich.table import Table

    from mmbackbones.analysis.complexity.controlled import count_arms, write_costs

    table = Table('mixer', 'where', 'parameters (M)', '', 'MACs (G)', '', 'scans uncut (G)')
    none = None
    costs = list(count_arms(args.arch, tuple(args.shape), args.equal, args.mixers))
    for cost in costs:
        if cost.missing:
            table.add_row(cost.mixer, cost.place, 'not possible')
            continue
        none = none or cost
        table.add_row(
            cost.mixer,
            cost.place,
            f'{cost.params / 1e6:.2f}',
            f'{cost.params / none.params - 1:+.1%}',
            f'{cost.macs / 1e9:.2f}',
            f'{cost.macs / none.macs - 1:+.1%}',
            f'{cost.macs_published / 1e9:.2f}',
        )
    widths = f'widths adjusted to equal {args.equal}' if args.equal else "MambaOut's widths"
    print(f'GatedMixerNet {args.arch}, {args.shape[0]}x{args.shape[1]} px, {widths}; backbone only')
    Console(width=110).print(table)
    if args.csv:
        write_costs(args.csv, costs)


if __name__ == '__main__':
    run_command(main)
