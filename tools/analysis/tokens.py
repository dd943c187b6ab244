"""Count the tokens of each stage of a backbone: tools/analysis/tokens.py CONFIG… [--split train] [--out DIR]."""

import argparse
import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.engine.command import run_command
from mmbackbones.engine.options import Overrides
from mmbackbones.errors import InputError
from mmbackbones.output_paths import FolderOption


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description='Show the distribution of token counts L over a data set after the pipeline of a config. It is '
        'computed from annotations or image headers. A sequence is long if L > 6 D (MambaOut, CVPR 2025).'
    )
    parser.add_argument('configs', nargs='+', metavar='CONFIG')
    parser.add_argument(
        '--split',
        choices=('train', 'val', 'test'),
        default='test',
        help='split whose images and pipeline are used; a random resize counts all its choices (default: test)',
    )
    parser.add_argument(
        '--sizes',
        nargs='+',
        type=int,
        metavar='PX',
        help='count on square images of these sides instead of a data set; no data, figure or record',
    )
    parser.add_argument(
        '--out',
        action=FolderOption,
        metavar='DIR',
        default='work_dirs/tokens',
        help='folder for tokens.csv, a figure per task and the records (default: work_dirs/tokens)',
    )
    parser.add_argument('--backbone', metavar='NAME', help="a model of the zoo that replaces the config's backbone")
    parser.add_argument('--cfg-options', nargs='+', action=Overrides, metavar='KEY=VALUE')
    args = parser.parse_args(argv)
    if args.sizes and min(args.sizes) < 1:
        raise InputError(f'--sizes {" ".join(map(str, args.sizes))}: expected positive sides in pixels')

    from mmbackbones.analysis.figures import save
    from mmbackbones.analysis.tables import make_folder, show
    from mmbackbones.analysis.tokens.report import (
        draw,
        paper_reports,
        record_of,
        report_config,
        report_sizes,
        table,
        write_reports,
    )
    from mmbackbones.engine.config import load_config, run_name
    from mmbackbones.evaluation.records import RECORDS, append_record

    out, reports, records = Path(args.out), [], []
    for config in args.configs:
        cfg = load_config(config, args.cfg_options, args.backbone)
        name = run_name(config, args.backbone)
        if args.sizes:
            reports += report_sizes(cfg, name, args.sizes)
            continue
        found = report_config(cfg, name, args.split)
        reports += found
        records.append(record_of(cfg, f'{name}.py', found[0], args.split))
    reports += [] if args.sizes else paper_reports()
    show(table(reports))
    make_folder(out)
    write_reports(out / 'tokens.csv', reports)
    if args.sizes:
        print(f'written to {out}: tokens.csv')
        return
    for task in dict.fromkeys(record['task'] for record in records):
        save(draw(reports, task), out / f'tokens_{task}')
    for record in records:
        append_record(out / RECORDS, record)
    print(f'written to {out}: tokens.csv, tokens_*.png, tokens_*.svg, {RECORDS}')


if __name__ == '__main__':
    run_command(main)
