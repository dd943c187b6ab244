"""Parameters and MACs: tools/analysis/complexity.py CONFIG… [--shape H W] [--depth N], or --all [--csv FILE]."""

import argparse
import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.engine.command import run_command
from mmbackbones.engine.options import Overrides
from mmbackbones.errors import InputError
from mmbackbones.output_paths import FileOption
from mmbackbones.paths import CONFIGS


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description='Count parameters and multiply-accumulates for one image. No values are computed.'
    )
    parser.add_argument('configs', nargs='*', metavar='CONFIG')
    parser.add_argument(
        '--all',
        nargs='?',
        const=CONFIGS,
        metavar='FOLDER',
        help='every config below a folder, with every miniature and controlled arm (default: all of this project)',
    )
    parser.add_argument('--csv', action=FileOption, metavar='FILE', help='write one line per config to this file')
    parser.add_argument('--markdown', action=FileOption, metavar='FILE', help='write one table per task to this file')
    parser.add_argument(
        '--record',
        action=FileOption,
        metavar='FILE',
        help='append a record per config to this file; collect.py reads records.jsonl of a work dir',
    )
    parser.add_argument(
        '--shape',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='image size in pixels (default: 800 1280 for detectors, 512 2048 for segmentors)',
    )
    parser.add_argument('--depth', type=int, default=1, help='also show submodules down to this depth (default: 1)')
    parser.add_argument('--backbone', metavar='NAME', help="a model of the zoo that replaces the config's backbone")
    parser.add_argument('--cfg-options', nargs='+', action=Overrides, metavar='KEY=VALUE')
    args = parser.parse_args(argv)

    from mmbackbones.analysis.complexity.count import count_complexity
    from mmbackbones.analysis.complexity.table import (
        all_configs,
        count_configs,
        record_of,
        sentences_on,
        table_of,
        to_markdown,
        write_counts,
    )
    from mmbackbones.analysis.tables import show, write_file
    from mmbackbones.engine.config import ARM_KEY, arm_of_config, load_config, run_name
    from mmbackbones.evaluation.records import append_record
    from mmbackbones.zoo.published import match

    if bool(args.all) == bool(args.configs):
        raise InputError('expected configs or --all')
    if args.record and (args.all or args.csv or args.markdown):
        raise InputError('--record: expected configs, without --all, --csv and --markdown')
    if (args.all or args.csv or args.markdown) and (args.shape or args.backbone or args.cfg_options):
        raise InputError('--shape, --backbone and --cfg-options: expected configs, without --all, --csv and --markdown')
    if not (args.all or args.csv or args.markdown):
        cache = {}
        for config in args.configs:
            shape = tuple(args.shape) if args.shape else None
            cfg = load_config(config, args.cfg_options, args.backbone)
            counts = count_complexity(cfg, shape, cache)
            given = arm_of_config(cfg) if ARM_KEY in (args.cfg_options or {}) else None
            name, found = run_name(config, args.backbone, given), match(config, backbone=args.backbone)
            print(f'{name}, {counts.shape[0]}x{counts.shape[1]} px')
            show(table_of(counts, args.depth), width=100)
            show(*sentences_on(counts, found, cfg.model.backbone.type.removeprefix('mmbackbones.')))
            if args.record:
                append_record(args.record, record_of(cfg, name, counts))
        return
    rows, refused = [], []
    for row in count_configs(all_configs(args.all) if args.all else args.configs, refused):
        rows.append(row)
        print(f'{row["config"]}: {row["params_M"]:.1f} M, {row["macs_G"]:.1f} G', flush=True)
    # A table with missing rows never replaces a whole one, and never costs the rows that were counted.
    end = '.incomplete' if refused else ''
    written = [f'{path}{end}' for path in (args.csv, args.markdown) if path and rows]
    if args.csv and rows:
        write_counts(f'{args.csv}{end}', rows)
    if args.markdown and rows:
        write_file(f'{args.markdown}{end}', to_markdown(rows))
    if refused:
        others = f', the other {len(rows)} are in {" and ".join(written)}' if written else ''
        raise InputError(f'{len(refused)} not counted{others}: {"; ".join(refused)}')


if __name__ == '__main__':
    run_command(main)
