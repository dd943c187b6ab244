"""Check the data of a config for faults: tools/analysis/check_dataset.py CONFIG [--full] [--json FILE]."""

import argparse
import runpy
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / 'mmbackbones' / 'needs.py'))['end_without']()


from mmbackbones.datasets.choices import SPLITS
from mmbackbones.engine.command import run_command
from mmbackbones.engine.options import Overrides
from mmbackbones.output_paths import FileOption


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description='Check annotations, images and masks. Exit status: 0 clean, 1 faults, 2 bad usage.'
    )
    parser.add_argument('config')
    parser.add_argument('--splits', nargs='+', choices=SPLITS, default=SPLITS)
    parser.add_argument('--full', action='store_true', help='decode every image and every object mask')
    parser.add_argument('--no-cache', action='store_true', help='check all files again, changed or not')
    parser.add_argument('--json', action=FileOption, metavar='FILE', help='write all faults to this file')
    parser.add_argument('--backbone', metavar='NAME', help="a model of the zoo that replaces the config's backbone")
    parser.add_argument('--cfg-options', nargs='+', action=Overrides, metavar='KEY=VALUE')
    args = parser.parse_args(argv)

    from rich.console import Console
    from rich.table import Table

    from mmbackbones.datasets.check import inspect_config, render, write_json
    from mmbackbones.engine.config import load_config

    cfg = load_config(args.config, args.cfg_options, args.backbone, needs_backbone=False)
    reports = inspect_config(cfg, args.splits, args.full, not args.no_cache)
    if args.json:
        write_json(reports, args.json)
    console = Console(width=None if sys.stdout.isatty() else 160)
    for part in render(reports, table=sys.stdout.isatty()):
        console.print(part, soft_wrap=not isinstance(part, Table))
    if any(report.faults for group in reports.values() for report in group):
        sys.exit(1)


if __name__ == '__main__':
    run_command(main)
