"""Test whether a difference in AP or mIoU is real: tools/analysis/compare.py RUN_A RUN_B [...] [--power]."""

import argparse
import json
import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.engine.command import run_command
from mmbackbones.errors import InputError
from mmbackbones.evaluation.choices import IOU_TYPES, RECORDS, SPLITS
from mmbackbones.output_paths import FileOption


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description='Compare the saved predictions of each run with those of the first run by a paired bootstrap. Runs '
        'that differ only in their seed form an arm. With three or more seeds per arm, the answer is about the methods.'
    )
    parser.add_argument(
        'runs',
        nargs='+',
        metavar='RUN',
        help='work dir of a training, or folder of test.py --out; the first run is the reference',
    )
    parser.add_argument('--resamples', type=int, default=1000, help='number of resamples (default: 1000)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the resamples (default: 0)')
    parser.add_argument(
        '--allow',
        nargs='+',
        default=[],
        metavar='KEY',
        help='keys of the config that may differ between the runs',
    )
    parser.add_argument(
        '--splits',
        nargs='*',
        choices=SPLITS,
        default=SPLITS,
        metavar='SPLIT',
        help=f'{", ".join(map(repr, SPLITS))} (default: all; --splits without a value: none)',
    )
    parser.add_argument(
        '--metrics',
        nargs='+',
        choices=list(IOU_TYPES),
        metavar='METRIC',
        help="for detectors: 'box AP', 'mask AP' (default: those of the evaluator)",
    )
    parser.add_argument('--annotations', type=Path, metavar='FILE', help='COCO annotations, if they were moved')
    parser.add_argument('--json', action=FileOption, type=Path, metavar='FILE', help='write the record to this file')
    parser.add_argument(
        '--record',
        action=FileOption,
        type=Path,
        metavar='FILE',
        help=f'append the record to this file (default: {RECORDS} in the work dir of the first run)',
    )
    parser.add_argument(
        '--power',
        action='store_true',
        help='take the runs as a pilot: say how many images and seeds it takes to see a difference, and no conclusion',
    )
    parser.add_argument(
        '--differences',
        nargs='+',
        type=float,
        metavar='POINTS',
        help='with --power: the differences to be seen (default: 0.3 0.5 1.0)',
    )
    parser.add_argument(
        '--images',
        type=int,
        metavar='N',
        help='with --power: images of the planned test (default: 5000 of COCO val2017 for AP, 2000 of ADE20K val)',
    )
    args = parser.parse_args(argv)
    for option in ('differences', 'images'):
        if getattr(args, option) is not None and not args.power:
            raise InputError(f'--{option} goes with --power')

    from mmbackbones.analysis.compare import paired, pilot, show
    from mmbackbones.analysis.tables import show as print_parts
    from mmbackbones.analysis.tables import write_file
    from mmbackbones.evaluation.predictions import load_run
    from mmbackbones.evaluation.records import append_record

    if args.power:
        plan = pilot.read_pilot(
            args.runs,
            args.differences or pilot.DIFFERENCES,
            args.resamples,
            args.seed,
            args.allow,
            args.metrics,
            args.annotations,
            args.images,
        )
        record, parts = pilot.to_record(plan), [*pilot.tables(plan), *plan.sentences]
    else:
        found = paired.compare_runs(
            args.runs, args.resamples, args.seed, args.allow, args.splits, args.metrics, args.annotations
        )
        notes = [f'Note: {note}.' for note in found.notes]
        record, parts = paired.to_record(found), [*show.tables(found), *found.sentences, *notes]
    append_record(args.record or load_run(args.runs[0]).work_dir / RECORDS, record)
    if args.json:
        write_file(args.json, json.dumps(record, indent=1, sort_keys=True) + '\n')
    print_parts(*parts, width=160)


if __name__ == '__main__':
    run_command(main)
