"""Train the zoo's miniatures and compare them with untrained ones: tools/analysis/train_miniatures.py [NAME ...]."""

import argparse
import runpy
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.engine.command import run_command
from mmbackbones.launch.choices import RUNS
from mmbackbones.output_paths import FileOption, FolderOption


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description='Train miniatures and test them before and after. Exit status: 0 if box AP50 or mIoU of each is '
        'below 0.5 before training and at least 0.5 after it, 1 if not, 2 bad usage.'
    )
    parser.add_argument(
        'runs',
        nargs='*',
        metavar='NAME',
        default=list(RUNS),
        help=f'some of {", ".join(RUNS)} (default: all)',
    )
    parser.add_argument(
        '--csv',
        action=FileOption,
        type=Path,
        metavar='FILE',
        help='write the rows to this file after each run; rows of other runs stay',
    )
    parser.add_argument('--work-dir', action=FolderOption, type=Path, default=Path('work_dirs', 'miniatures'))
    parser.add_argument(
        '--data', type=Path, default=Path('data', 'shapes'), help='folder of the data; generated if missing'
    )
    args = parser.parse_args(argv)

    from mmbackbones.datasets.shapes import write_shapes
    from mmbackbones.launch.miniature import read_csv, train_miniature, write_rows

    write_shapes(args.data)
    if args.csv:
        read_csv(args.csv)  # a file that is no such table is refused before hours of training
    ran = []
    for run in args.runs:
        ran.append(train_miniature(run, args.work_dir / run, args.data))
        values = {name: ran[-1][name] for name in ('box_AP50', 'box_AP', 'mask_AP', 'mIoU', 'untrained', 'learned')}
        print(f'{run}: ' + ', '.join(f'{name} {value}' for name, value in values.items() if value), flush=True)
        if args.csv:
            write_rows(args.csv, list({**read_csv(args.csv), run: ran[-1]}.values()))  # others may have written too
    if any(row['learned'] != 'yes' for row in ran):
        sys.exit(1)


if __name__ == '__main__':
    run_command(main)
