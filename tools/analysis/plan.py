"""What a suite costs, before anybody starts it: tools/analysis/plan.py SUITE.yaml [--power PILOT_A PILOT_B]."""

import argparse
import json
import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.engine.command import run_command
from mmbackbones.errors import InputError
from mmbackbones.output_paths import FileOption


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Say the GPU-hours, memory and hours on the clock of a suite, from measured throughput. What has '
        'no measurement stays empty, and the command that measures it is printed.'
    )
    parser.add_argument('suite', help='YAML file, such as configs/suites/controlled.yaml; it may lie in the package')
    parser.add_argument(
        '--measured',
        nargs='+',
        metavar='PATH',
        help='work dirs, files of records, or CSVs of end_to_end.py and speed.py (default: work_dirs, and such CSVs in '
        'benchmarks)',
    )
    parser.add_argument('--device', metavar='NAME', help='part of the name of the device to plan for')
    parser.add_argument('--gpus', type=int, help='processes per run, instead of the number in the file; 0: CPU')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time, for the hours on the clock (default: 1)')
    parser.add_argument('--train-images', type=int, metavar='N', help='images of an epoch, of a data set of your own')
    parser.add_argument(
        '--scale-by-macs',
        nargs='?',
        const='benchmarks/complexity.csv',
        metavar='CSV',
        help='scale what was not measured from the measured training of the most similar MACs, and mark it with ~ '
        '(counts: benchmarks/complexity.csv)',
    )
    parser.add_argument(
        '--power',
        nargs='+',
        metavar='RUN',
        help='runs of a pilot, as in compare.py --power: say the smallest suite that sees a difference',
    )
    parser.add_argument('--difference', type=float, help='with --power: in points (default: 0.5)')
    parser.add_argument('--wanted-power', type=float, help='with --power (default: 0.8)')
    parser.add_argument('--images', type=int, metavar='N', help='with --power: images of the planned test')
    parser.add_argument('--annotations', type=Path, metavar='FILE', help='with --power: COCO annotations of the pilot')
    parser.add_argument('--csv', action=FileOption, type=Path, metavar='FILE', help='write a row per training')
    parser.add_argument('--json', action=FileOption, type=Path, metavar='FILE', help='write the plan to this file')
    args = parser.parse_args(argv)
    for option in ('difference', 'wanted_power', 'images', 'annotations'):
        if getattr(args, option) is not None and not args.power:
            raise InputError(f'--{option.replace("_", "-")} goes with --power')
    for option, least in (('jobs', 1), ('gpus', 0), ('train_images', 1)):
        if (value := getattr(args, option)) is not None and value < least:
            raise InputError(f'--{option.replace("_", "-")} {value}: expected {least} and more')
    if args.wanted_power is not None and not 0.05 < args.wanted_power < 1:
        raise InputError(f'--wanted-power {args.wanted_power:g}: expected a number between 0.05 and 1')
    args.difference = 0.5 if args.difference is None else args.difference
    args.wanted_power = args.wanted_power or 0.8
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)

    from mmbackbones.analysis.compare.pilot import read_pilot, require_differences
    from mmbackbones.analysis.plan import show
    from mmbackbones.analysis.plan.cost import costs_of, counted_macs
    from mmbackbones.analysis.plan.measured import has_measurements, read_measurements
    from mmbackbones.analysis.tables import show as print_parts
    from mmbackbones.analysis.tables import write_csv, write_file
    from mmbackbones.launch.planned import jobs_of
    from mmbackbones.paths import find_config

    require_differences([args.difference], '--difference')
    places = args.measured
    if places is None:
        places = [place for place in [Path('work_dirs')] if place.is_dir()]
        places += [path for path in sorted(Path('benchmarks').glob('*.csv')) if has_measurements(path)]
    macs = counted_macs(args.scale_by_macs) if args.scale_by_macs else None
    suite = find_config(args.suite, 'suite')
    costs = costs_of(jobs_of(suite, args.gpus, args.train_images), read_measurements(places), args.device, macs)
    pilot = None
    if args.power:
        pilot = read_pilot(args.power, (args.difference,), annotations=args.annotations, images=args.images)
    said = show.sentences(costs, args.jobs) + show.answerable(costs, pilot, args.difference, args.wanted_power)
    if args.csv:
        write_csv(args.csv, show.COLUMNS, map(show.numbers, costs), '.6g')
    if args.json:
        record = show.to_record(str(args.suite), costs, said, args.jobs)
        write_file(args.json, json.dumps(record, indent=1, sort_keys=True) + '\n')
    print_parts(show.table_of(costs), *said, width=160)


if __name__ == '__main__':
    run_command(main)
