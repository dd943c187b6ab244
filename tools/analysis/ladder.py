"""AP or mIoU against tokens: tools/analysis/ladder.py CONFIG [CHECKPOINT] --sizes 512 640 800 --out DIR."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmbackbones.analysis.tokens.resolution_sweep import climb, plot, to_record, write_csv
from mmbackbones.engine.cli import run_command
from mmbackbones.errors import InputError
from mmbackbones.evaluation.records import RECORDS, append_record


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description='Test one checkpoint, or train one config where no checkpoint is given, at several input sizes. '
        'Sizes that are done are not run again.'
    )
    parser.add_argument('config')
    parser.add_argument('checkpoint', nargs='?', help='file, https:// or hf://owner/name/file')
    parser.add_argument('--sizes', nargs='+', type=int, required=True, metavar='PX', help='short sides of the input')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder for runs, CSV and figures')
    parser.add_argument('--resamples', type=int, default=1000)
    parser.add_argument('--seed', type=int, default=0, help='of the resamples')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='for every run')
    args = parser.parse_args(argv)

    rungs, faults = climb(
        args.config, args.checkpoint, args.sizes, args.out, args.cfg_options, args.resamples, args.seed
    )
    write_csv(rungs, args.out / 'ladder.csv')
    for ending in ('png', 'svg'):
        plot(rungs, args.out / f'ladder.{ending}', Path(args.config).stem)
    append_record(args.out / RECORDS, to_record(rungs, args.config, args.out, args.sizes, args.seed))
    table = Table('size', 'tokens', 'metric', 'score', '95 % interval', 'against the smallest', '95 % interval')
    for rung in rungs:
        table.add_row(
            str(rung.size),
            f'{rung.tokens:,.0f}',
            rung.metric,
            f'{rung.score:.2f}',
            f'{rung.low:.2f} to {rung.high:.2f}',
            f'{rung.difference:+.2f}',
            f'{rung.difference_low:+.2f} to {rung.difference_high:+.2f}',
        )
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(table)
    print(f'ladder.csv, ladder.png and ladder.svg are in {args.out}')
    if faults:
        raise InputError('; '.join(faults))


if __name__ == '__main__':
    run_command(main)
