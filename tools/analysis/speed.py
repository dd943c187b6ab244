"""Time and memory against resolution: tools/analysis/speed.py CONFIG… [--sizes 224 … 2048] [--csv FILE]."""

import argparse
import runpy
from dataclasses import replace
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.analysis.speed.choices import PARTS, PRECISIONS, STEPS
from mmbackbones.analysis.speed.presets import PRESETS
from mmbackbones.choices import ATTENTION, BACKENDS, OLD_ATTENTION, canonical_name
from mmbackbones.engine.command import run_command
from mmbackbones.errors import InputError
from mmbackbones.output_paths import FileOption
from mmbackbones.paths import find_config


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Measure the median time of a step on random square images and its peak memory above model and '
        'images. Each network, scan backend, kind of attention and size gets its own process. The processes of a size '
        'take turns. Ratios are to the first one.'
    )
    parser.add_argument('configs', nargs='*', metavar='CONFIG')
    parser.add_argument('--preset', choices=PRESETS, help='the measurement behind a published claim')
    parser.add_argument('--sizes', nargs='+', type=int, metavar='PX', help='default: 224 512 1024 1248 2048')
    parser.add_argument(
        '--parts',
        nargs='+',
        choices=PARTS,
        default=['backbone'],
        help='backbone: the backbone alone; model: the whole detector or segmentor (default: backbone)',
    )
    parser.add_argument(
        '--steps',
        nargs='+',
        choices=STEPS,
        default=['inference'],
        help='training includes forward, loss, backward and AdamW (default: inference)',
    )
    parser.add_argument('--batch', type=int, help='images per step (default: 1)')
    parser.add_argument(
        '--backends',
        nargs='+',
        type=canonical_name,
        choices=BACKENDS,
        default=[],
        metavar='BACKEND',
        help=f'of the scan: {", ".join(BACKENDS)} (default: the one chosen for the device)',
    )
    parser.add_argument(
        '--attention',
        nargs='+',
        type=lambda name: OLD_ATTENTION.get(name, name),
        choices=ATTENTION,
        default=[],
        help='for backbones with this option; eager stores the attention matrix, sdpa does not (default: as in config)',
    )
    parser.add_argument('--precision', choices=PRECISIONS, help='bf16 and fp16 use autocast (default: fp32)')
    parser.add_argument('--channels-last', action='store_true')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--rounds', type=int, default=3, help='timed steps; 0 measures memory alone (default: 3)')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads (default: 1)')
    parser.add_argument(
        '--memory-gb', type=float, help='a network that needs more is out of memory (default: free memory)'
    )
    parser.add_argument(
        '--csv', action=FileOption, metavar='FILE', help='write the rows with their conditions to this file'
    )
    parser.add_argument(
        '--record',
        action=FileOption,
        metavar='FILE',
        default='work_dirs/speed/records.jsonl',
        help='append a record per row (default: work_dirs/speed/records.jsonl)',
    )
    args = parser.parse_args(argv)
    if bool(args.preset) == bool(args.configs):
        raise InputError('expected configs or --preset')
    if args.preset:
        preset = PRESETS[args.preset]
        args.configs = [str(find_config(name)) for name in preset.configs]
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

    from mmbackbones.analysis.speed.networks import arms, check, measure
    from mmbackbones.analysis.speed.report import conditions_of, growth_sentences, record_of, table_of, write_timings
    from mmbackbones.analysis.speed.worker import NetworkCase
    from mmbackbones.analysis.tables import show
    from mmbackbones.evaluation.records import append_record

    base = NetworkCase(
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
    about, timings = conditions_of(base), []
    print(', '.join(about.values()))
    for part in args.parts:
        for step in args.steps:
            group = [replace(case, part=part, step=step) for case in cases]
            found = []
            for timing in measure(group, args.sizes, args.rounds):
                found.append(timing)
                append_record(args.record, record_of(timing, about))
                if args.csv:
                    write_timings(args.csv, timings + found, about)
            timings += found
            show(table_of(found, f'{part}, {step}, batch {args.batch}, {args.precision}'), width=170)
    print(*growth_sentences(timings), sep='\n')


if __name__ == '__main__':
    run_command(main)
