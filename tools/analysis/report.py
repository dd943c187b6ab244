"""Write one page about all runs in some work dirs: tools/analysis/report.py WORK_DIRS... -o report/."""

import argparse
import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.engine.command import run_command
from mmbackbones.output_paths import FolderOption


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description='Write one page about all runs in some work dirs.')
    parser.add_argument('work_dirs', nargs='+', help='work dirs, or folders of work dirs')
    parser.add_argument(
        '-o',
        '--out',
        action=FolderOption,
        required=True,
        help='folder of the report; an earlier report there is replaced',
    )
    parser.add_argument('--resamples', type=int, default=1000, help='resamples of every bootstrap (default: 1000)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the resamples (default: 0)')
    args = parser.parse_args(argv)

    from mmbackbones.analysis.report.write import write_report

    print(write_report(args.work_dirs, args.out, args.resamples, args.seed))


if __name__ == '__main__':
    run_command(main)
