"""Is a difference in AP or mIoU real? tools/analysis/compare.py RUN_A RUN_B [...] [--json FILE]."""

import argparse
import json
from pathlib import Path

from mmbackbones.analysis.compare.paired import compare_runs, tables, to_record
from mmbackbones.analysis.tables import show, write_file
from mmbackbones.engine.command import run_command
from mmbackbones.evaluation.predictions import SPLITS, load_run
from mmbackbones.evaluation.records import RECORDS, append_record
from mmbackbones.evaluation.scores import IOU_TYPES


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description='Paired bootstrap of saved predictions against those of the first run. Runs that differ in their '
        'seed alone form an arm; with three seeds and more per arm the answer is about the methods.'
    )
    parser.add_argument(
        'runs',
        nargs='+',
        metavar='RUN',
        help='work dir of a training, or folder that test.py --out made; the first is the reference',
    )
    parser.add_argument('--resamples', type=int, default=1000)
    parser.add_argument('--seed', type=int, default=0, help='of the resamples')
    parser.add_argument(
        '--allow',
        nargs='+',
        default=[],
        metavar='KEY',
        help='keys of the config that may differ because they are what is compared',
    )
    parser.add_argument(
        '--splits',
        nargs='*',
        choices=SPLITS,
        default=SPLITS,
        metavar='SPLIT',
        help=f'{", ".join(map(repr, SPLITS))} (default: all; none after the bare option)',
    )
    parser.add_argument(
        '--metrics',
        nargs='+',
        choices=list(IOU_TYPES),
        metavar='METRIC',
        help="of detectors: 'box AP', 'mask AP' (default: both)",
    )
    parser.add_argument('--annotations', type=Path, metavar='FILE', help='COCO annotations, if they were moved')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write everything into this file')
    parser.add_argument(
        '--record',
        type=Path,
        metavar='FILE',
        help=f'append the record to this file (default: {RECORDS} in the work dir of the first run)',
    )
    args = parser.parse_args(argv)

    found = compare_runs(args.runs, args.resamples, args.seed, args.allow, args.splits, args.metrics, args.annotations)
    record = to_record(found)
    append_record(args.record or load_run(args.runs[0]).work_dir / RECORDS, record)
    if args.json:
        write_file(args.json, json.dumps(record, indent=1, sort_keys=True) + '\n')
    show(*tables(found), *found.sentences, *(f'Note: {note}.' for note in found.notes), width=140)


if __name__ == '__main__':
    run_command(main)
