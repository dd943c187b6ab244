"""How many tokens a backbone sees, stage by stage: tools/analysis/tokens.py CONFIG… [--split train] [--out DIR]."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmbackbones.analysis.tokens.report import TokenReport, draw, paper_reports, record_of, report_config, write_csv
from mmbackbones.engine.cli import run_command
from mmbackbones.engine.config import Overrides, load_config
from mmbackbones.errors import InputError
from mmbackbones.evaluation.records import RECORDS, append_record
from mmbackbones.zoo.published import network_and_task


def short(network: str) -> str:
    """The network alone, where the config is named as ours are."""
    try:
        return network_and_task(network)[0]
    except InputError:
        return network


def show(reports: list[TokenReport]) -> None:
    table = Table(
        'data', 'network', 'stage', 'stride', 'D', 'tokens L: 5 %', 'median', '95 %', '6 D', 'r, median', 'long'
    )
    for report in reports:
        for row in report.rows():
            whole = (str(row[key]) for key in ('stage', 'stride', 'channels', 'p5', 'median', 'p95', 'threshold_6D'))
            table.add_row(
                row['data'], short(row['network']), *whole, f'{row["r_median"]:.2f}', f'{100 * row["long_share"]:.0f} %'
            )
    Console(width=None if sys.stdout.isatty() else 150).print(table)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description='Distribution of token counts L over a data set after the pipeline of a config, from annotations '
        'or image headers alone, against the threshold L > 6 D beyond which a sequence is long (MambaOut, CVPR 2025).'
    )
    parser.add_argument('configs', nargs='+', metavar='CONFIG')
    parser.add_argument(
        '--split',
        choices=('train', 'val', 'test'),
        default='test',
        help='whose images and pipeline; random resizes count with all their choices (default: test)',
    )
    parser.add_argument(
        '--out',
        metavar='DIR',
        default='work_dirs/tokens',
        help='folder for tokens.csv, a figure per task and the records (default: work_dirs/tokens)',
    )
    parser.add_argument('--cfg-options', nargs='+', action=Overrides, metavar='KEY=VALUE')
    args = parser.parse_args(argv)

    out, reports, records = Path(args.out), [], []
    for config in args.configs:
        cfg = load_config(config, args.cfg_options)
        found = report_config(cfg, Path(config).stem, args.split)
        reports += found
        records.append(record_of(cfg, config, found[0], args.split))
    reports += paper_reports()
    show(reports)
    out.mkdir(parents=True, exist_ok=True)
    write_csv(reports, out / 'tokens.csv')
    for task in dict.fromkeys(record['task'] for record in records):
        for suffix in ('png', 'svg'):
            draw(reports, task).savefig(out / f'tokens_{task}.{suffix}', dpi=150)
    for record in records:
        append_record(out / RECORDS, record)
    print(f'written to {out}: tokens.csv, tokens_*.png, tokens_*.svg, {RECORDS}')


if __name__ == '__main__':
    run_command(main)
