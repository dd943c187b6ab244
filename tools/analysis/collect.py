"""One results table from records: tools/analysis/collect.py WORK_DIR [...] [--csv FILE] [--markdown FILE]."""

import argparse
import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[2] / 'mmbackbones' / 'needs.py'))['end_without']()

from mmbackbones.engine.command import run_command
from mmbackbones.output_paths import FileOption


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description='Show the scores of last checkpoints beside published ones. Runs that differ only in their seed '
        'are one line, with mean and range. Runs that may not be compared get separate tables. '
        'Incomplete, mixed and stale runs are listed with the reason.'
    )
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='work dir of a run, or a folder of work dirs')
    parser.add_argument('--csv', action=FileOption, metavar='FILE', help='write all columns of every run to this file')
    parser.add_argument('--markdown', action=FileOption, metavar='FILE', help='write the tables to this file')
    args = parser.parse_args(argv)

    from mmbackbones.analysis.compare.by_arm import shown_tables, to_markdown
    from mmbackbones.analysis.compare.collect import collect
    from mmbackbones.analysis.tables import show, write_csv, write_file

    found = collect(args.work_dirs)
    if args.csv:
        write_csv(args.csv, found.columns(), found.rows())
    if args.markdown:
        write_file(args.markdown, to_markdown(found))
    show(*shown_tables(found), width=180)
    show(*found.apart, *found.notes, *(f'{path}: {why}' for path, why in found.left_out.items()))


if __name__ == '__main__':
    run_command(main)
