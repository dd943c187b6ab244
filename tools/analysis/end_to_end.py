"""Train full-size models for a few iterations on real images: tools/analysis/end_to_end.py --coco DIR --ade20k DIR."""

import argparse
import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.analysis.speed.choices import BASIC
from mmbackbones.engine.command import run_command
from mmbackbones.errors import InputError
from mmbackbones.output_paths import FileOption, FolderOption


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description='Train from random weights. Show iterations per second, peak memory and the first and last loss. A '
        'loss or gradient that is not finite ends a training. FP16 on CUDA, FP32 on a CPU, as in the recipe.'
    )
    parser.add_argument(
        'configs',
        nargs='*',
        metavar='CONFIG',
        default=list(BASIC),
        help='configs to train (default: MambaOut, Vim and VMamba tiny in both tasks)',
    )
    parser.add_argument('--coco', type=Path, metavar='DIR', help='COCO in the layout of data/coco')
    parser.add_argument(
        '--ade20k', type=Path, metavar='DIR', help='ADE20K in the layout of data/ade/ADEChallengeData2016'
    )
    parser.add_argument(
        '--iterations', type=int, default=200, metavar='N', help='iterations per training (default: 200)'
    )
    parser.add_argument('--work-dir', action=FolderOption, type=Path, default=Path('work_dirs', 'end_to_end'))
    parser.add_argument('--csv', action=FileOption, metavar='FILE', help='write a row per training to this file')
    args = parser.parse_args(argv)

    from mmbackbones.analysis.speed.end_to_end import train, write_rows

    if args.iterations < 1:
        raise InputError(f'--iterations {args.iterations}: expected 1 and more')
    for option, folder in (('--coco', args.coco), ('--ade20k', args.ade20k)):
        if folder is not None and not folder.is_dir():
            raise InputError(f'{option} {folder}: no such folder')
    rows = []
    for config in args.configs:
        rows.append(
            train(
                config,
                args.work_dir / Path(config).stem,
                dict(detection=args.coco, segmentation=args.ade20k),
                args.iterations,
            )
        )
        row = rows[-1]
        peak = '' if row['peak_mb'] is None else f'peak {row["peak_mb"]:.0f} MB, '
        print(
            f'{row["config"]}: {row["iterations"]} iterations, {row["iterations_per_s"]:.3g} per second, {peak}'
            f'loss {row["first_loss"]:.3g} to {row["last_loss"]:.3g}, {row["precision"]}, '
            f'scan {row["scan_backend"]}, {row["device"]}',
            flush=True,
        )
        if args.csv:
            write_rows(args.csv, rows)


if __name__ == '__main__':
    run_command(main)
