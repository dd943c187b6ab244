"""AP or mIoU against tokens: tools/analysis/resolution_sweep.py CONFIG [CHECKPOINT] --sizes 512 640 800 --out DIR."""

import argparse
import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.engine.command import run_command
from mmbackbones.errors import InputError
from mmbackbones.output_paths import FolderOption


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description='Test one checkpoint at several input sizes. Without a checkpoint, train the config at each size. '
        'Finished sizes are not run again.'
    )
    parser.add_argument('config')
    parser.add_argument('checkpoint', nargs='?', help='file, https://…, hf://owner/name/file or zoo://NAME')
    parser.add_argument('--sizes', nargs='+', type=int, required=True, metavar='PX', help='short sides of the input')
    parser.add_argument(
        '--out', action=FolderOption, type=Path, required=True, metavar='DIR', help='folder for runs, CSV and figures'
    )
    parser.add_argument('--resamples', type=int, default=1000, help='number of resamples (default: 1000)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the resamples (default: 0)')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='options of every run')
    args = parser.parse_args(argv)

    from mmbackbones.analysis.figures import save
    from mmbackbones.analysis.tables import show
    from mmbackbones.analysis.tokens.resolution_sweep import sweep
    from mmbackbones.analysis.tokens.sweep_points import KIND, by_metric, draw, table, to_record, write_points
    from mmbackbones.evaluation.records import RECORDS, append_record

    points, faults = sweep(
        args.config, args.checkpoint, args.sizes, args.out, args.cfg_options, args.resamples, args.seed
    )
    write_points(args.out / f'{KIND}.csv', points)
    figures = save(draw(by_metric(points), Path(args.config).stem), args.out / KIND)
    append_record(args.out / RECORDS, to_record(points, args.config, args.out, args.sizes, args.seed))
    show(table(points), width=120)
    print(f'{KIND}.csv, {" and ".join(path.name for path in figures)} are in {args.out}')
    if faults:
        raise InputError('; '.join(faults))


if __name__ == '__main__':
    run_command(main)
