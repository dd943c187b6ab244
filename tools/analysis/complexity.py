"""Parameters and MACs of a detector or segmentor: tools/analysis/complexity.py CONFIG [--shape H W]."""

import argparse

from rich.console import Console
from rich.table import Table

from mmbackbones.analysis.complexity import count_complexity
from mmbackbones.engine.cli import run_command
from mmbackbones.engine.options import Overrides, load_config


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description='Count parameters and multiply-accumulates for one image.')
    parser.add_argument('config')
    parser.add_argument('--shape', nargs=2, type=int, metavar=('H', 'W'),
                        help='image size in pixels (default: 800 1280 for detectors, 512 2048 for segmentors)')
    parser.add_argument('--cfg-options', nargs='+', action=Overrides, metavar='KEY=VALUE')
    args = parser.parse_args(argv)

    counts = count_complexity(load_config(args.config, args.cfg_options), args.shape and tuple(args.shape))
    table = Table('module', 'parameters (M)', 'MACs (G)')
    for name, params in counts.params.items():
        table.add_row(name, f'{params / 1e6:.2f}', f'{counts.macs[name] / 1e9:.1f}')
    print(f'{args.config}, {counts.shape[0]}x{counts.shape[1]} px')
    Console(width=100).print(table)


if __name__ == '__main__':
    run_command(main)
