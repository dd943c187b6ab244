"""Time and memory against resolution: tools/analysis/speed.py CONFIG… [--sizes 224 … 2048] [--csv FILE]."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmbackbones.analysis.speed.networks import ATTENTION, PARTS, PRESETS, STEPS, arms, check, measure
from mmbackbones.analysis.speed.report import conditions, growth_sentences, numbers, record_of, write_csv
from mmbackbones.analysis.speed.worker import DTYPES, Case
from mmbackbones.engine.cli import run_command
from mmbackbones.errors import InputError
from mmbackbones.evaluation.records import append_record
from mmbackbones.ops.selective_scan.dispatch import BACKENDS

CONFIGS = Path(__file__).parents[2] / 'configs'
SHOWN = {
    'size': 'size',
    'tokens': 'tokens',
    'backend': 'scan',
    'attention': 'attention',
    'median_ms': 'median ms',
    'images_per_s': 'images/s',
    'times_first': 'x first',
    'scan_share': 'of it scan',
    'peak_mb': 'peak MB',
    'process_peak_mb': 'process MB',
    'peak_bytes_per_token': 'bytes/token',
    'note': 'note',
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Median time of a step on random square images, and its peak memory above model and images. Each '
        'network (with each scan backend and kind of attention) at each size runs in a process of its own; those of a '
        'size take turns. Ratios are to the first of them.'
    )
    parser.add_argument('configs', nargs='*', metavar='CONFIG')
    parser.add_argument('--preset', choices=PRESETS, help='the set-up behind a published claim')
    parser.add_argument('--sizes', nargs='+', type=int, metavar='PX', help='default: 224 512 1024 1248 2048')
    parser.add_argument(
        '--parts',
        nargs='+',
        choices=PARTS,
        default=['backbone'],
        help='the backbone alone, the whole detector or segmentor (default: backbone)',
    )
    parser.add_argument(
        '--steps',
        nargs='+',
        choices=STEPS,
        default=['inference'],
        help='training: forward, loss, backward and AdamW (default: inference)',
    )
    parser.add_argument('--batch', type=int, help='images per step (default: 1)')
    parser.add_argument(
        '--backends',
        nargs='+',
        choices=BACKENDS,
        default=[],
        metavar='BACKEND',
        help=f'of the scan: {", ".join(BACKENDS)} (default: the one chosen for the device)',
    )
    parser.add_argument(
        '--attention',
        nargs='+',
        choices=ATTENTION,
        default=[],
        help='where the backbone lets one choose (default: as its config says)',
    )
    parser.add_argument('--precision', choices=DTYPES, help='bf16, fp16: by autocast (default: fp32)')
    parser.add_argument('--channels-last', action='store_true')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--threads', type=int, default=1, help='CPU threads (default: 1)')
    parser.add_argument('--memory-gb', type=float, help='more than this is out of memory (default: what is free)')
    parser.add_argument('--csv', metavar='FILE', help='write the rows with their conditions into this file')
    parser.add_argument(
        '--record',
        metavar='FILE',
        default='work_dirs/speed/records.jsonl',
        help='append a record per row (default: work_dirs/speed/records.jsonl)',
    )
    args = parser.parse_args(argv)
    if bool(args.preset) == bool(args.configs):
        raise InputError('expected configs or --preset')
    if args.preset:
        preset = PRESETS[args.preset]
        args.configs = [str(CONFIGS / config) for config in preset.configs]
        args.sizes = args.sizes or list(preset.sizes)
        args.attention = args.attention or list(preset.attention)
        args.batch = preset.batch[args.device] if args.batch is None else args.batch
        args.precision = args.precision or preset.precision[args.device]
        print(preset.claim)
    args.sizes = args.sizes or [224, 512, 1024, 1248, 2048]
    args.batch = 1 if args.batch is None else args.batch
    args.precision = args.precision or 'fp32'
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    base = Case(
        args.configs[0],
        0,
        batch=args.batch,
        precision=args.precision,
        channels_last=args.channels_last,
        device=args.device,
        threads=args.threads,
        memory_gb=args.memory_gb,
    )
    check(base, args.sizes, args.rounds)
    cases = [case for config in args.configs for case in arms(config, base, args.backends, args.attention)]
    about, rows = conditions(base), []
    print(', '.join(about.values()))
    for part in args.parts:
        for step in args.steps:
            table = Table('config', *SHOWN.values(), title=f'{part}, {step}, batch {args.batch}, {args.precision}')
            group = [Case(**{**vars(case), 'part': part, 'step': step}) for case in cases]
            for row in measure(group, args.sizes, args.rounds):
                rows.append(row)
                append_record(args.record, record_of(row, about))
                values = numbers(row)
                table.add_row(
                    values['config'].split('_8xb')[0],
                    *(
                        f'{x:.3g}'
                        if isinstance(x, float) and abs(x) < 100
                        else f'{x:.0f}'
                        if isinstance(x, float)
                        else ''
                        if x is None
                        else str(x)
                        for x in map(values.get, SHOWN)
                    ),
                )
                if args.csv:
                    write_csv(rows, args.csv, about)
            Console(width=None if sys.stdout.isatty() else 170).print(table)
    print(*growth_sentences(rows), sep='\n')


if __name__ == '__main__':
    run_command(main)
