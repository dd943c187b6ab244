"""Parameters and MACs: tools/analysis/complexity.py CONFIG… [--shape H W] [--depth N], or --all [--csv FILE]."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmbackbones.analysis.complexity.count import SCAN_RULES, SHAPES, Complexity, count_complexity
from mmbackbones.analysis.complexity.rules import describe
from mmbackbones.analysis.complexity.table import all_configs, count_configs, record_of, to_markdown, write_csv
from mmbackbones.engine.cli import run_command
from mmbackbones.engine.config import Overrides, load_config
from mmbackbones.errors import InputError
from mmbackbones.evaluation.environment import environment
from mmbackbones.evaluation.records import append_record
from mmbackbones.zoo.published import match

CONFIGS = Path(__file__).parents[2] / 'configs'


def show(counts: Complexity, config: str, family: str, depth: int) -> None:
    table = Table('module', 'parameters (M)', 'MACs (G)')
    for name, params in counts.params.items():
        table.add_row(name, f'{params / 1e6:.2f}', f'{counts.macs[name] / 1e9:.1f}')
        for module, macs in counts.submodules.items():
            if module.startswith(f'{name}.') and module.count('.') < depth:
                table.add_row(module, '', f'{macs / 1e9:.2f}')
    print(f'{config}, {counts.shape[0]}x{counts.shape[1]} px')
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    if counts.scans:
        sums = ', '.join(f'{counts.total_macs(rule) / 1e9:.1f} by {rule}' for rule in SCAN_RULES)
        print(f'all MACs (G) with the scan counted per element of (B, D, L): {sums}')
    found = match(config)
    if found.row is None:
        print(f'no published row: {found.remark}')
    else:
        row = found.row
        numbers = f'{row.params:g} M' + (f', {row.macs:g} G' if row.macs else ', no MACs')
        print(f'published as {row.name}: {numbers} ({row.source}){"; " + found.remark if found.remark else ""}')
        for line in describe(family, counts, row) if counts.shape in SHAPES.values() else ():
            print(f'  {line}')


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description='Count parameters and multiply-accumulates for one image. Nothing is computed or downloaded.'
    )
    parser.add_argument('configs', nargs='*', metavar='CONFIG')
    parser.add_argument(
        '--all',
        nargs='?',
        const=CONFIGS,
        metavar='FOLDER',
        help='every config below a folder (default: those of this project)',
    )
    parser.add_argument('--csv', metavar='FILE', help='write one line per config')
    parser.add_argument('--markdown', metavar='FILE', help='write one table per task')
    parser.add_argument(
        '--record',
        metavar='FILE',
        help='append a record per config, such as to records.jsonl of a work dir, where collect.py finds it',
    )
    parser.add_argument(
        '--shape',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='image size in pixels (default: 800 1280 for detectors, 512 2048 for segmentors)',
    )
    parser.add_argument('--depth', type=int, default=1, help='also show submodules down to this depth (default: 1)')
    parser.add_argument('--cfg-options', nargs='+', action=Overrides, metavar='KEY=VALUE')
    args = parser.parse_args(argv)

    if bool(args.all) == bool(args.configs):
        raise InputError('expected configs or --all')
    if args.record and (args.all or args.csv or args.markdown):
        raise InputError('--record: expected configs alone, without --all, --csv and --markdown')
    if (args.all or args.csv or args.markdown) and (args.shape or args.cfg_options):
        raise InputError('--shape and --cfg-options: expected configs alone, without --all, --csv and --markdown')
    if not (args.all or args.csv or args.markdown):
        cache = {}
        for config in args.configs:
            shape = tuple(args.shape) if args.shape else None
            cfg = load_config(config, args.cfg_options)
            family = cfg.model.backbone.type.removeprefix('mmbackbones.')
            counts = count_complexity(cfg, shape, cache)
            show(counts, config, family, args.depth)
            if args.record:
                append_record(args.record, record_of(cfg, config, counts))
        return
    rows = []
    for row in count_configs(all_configs(args.all) if args.all else args.configs):
        rows.append(row)
        print(f'{row["config"]}: {row["params_M"]:.1f} M, {row["macs_G"]:.1f} G', flush=True)
    if args.csv:
        versions = environment()
        about = dict(
            date=versions['date'][:10],
            commit=versions['commit'] or '',
            torch=versions['versions']['torch'],
            timm=versions['versions']['timm'],
        )
        write_csv(rows, args.csv, about)
    if args.markdown:
        Path(args.markdown).write_text(to_markdown(rows))


if __name__ == '__main__':
    run_command(main)
