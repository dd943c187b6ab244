"""The options of ``suite`` and ``quickstart``, told and checked before what takes seconds to import is imported."""

import argparse
from pathlib import Path

from mmbackbones.output_paths import FolderOption

QUICKSTART = (
    'Train and test a small detector and two small segmentors, MambaOut and a Mamba, on generated shapes, and check '
    'them.'
)


def suite(argv: list[str] | None = None) -> None:
    """See :func:`mmbackbones.launch.run_suite.main`."""
    args = suite_parser().parse_args(argv)
    from mmbackbones.launch.run_suite import run

    run(args)


def quickstart(argv: list[str] | None = None) -> None:
    """See :func:`mmbackbones.launch.quickstart.main`."""
    args = quickstart_parser().parse_args(argv)
    from mmbackbones.launch.quickstart import run_with

    run_with(args)


def suite_parser() -> argparse.ArgumentParser:
    """Options of ``suite``."""
    parser = argparse.ArgumentParser(description='Run a suite of trainings; called again, it goes on where it stopped.')
    parser.add_argument('suite', help='YAML file, such as configs/suites/quickstart.yaml; it may lie in the package')
    parser.add_argument(
        '--work-dir', action=FolderOption, help='folder of its runs (default: work_dirs/suites/<suite name>)'
    )
    parser.add_argument('--cluster', choices=['local', 'slurm'], default='local')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time on this machine (default: 1)')
    parser.add_argument('--gpus', type=int, help='processes per run, instead of the number in the file; 0: CPU')
    parser.add_argument('--dry-run', action='store_true', help='list the runs and their states, and stop')
    return parser


def quickstart_parser() -> argparse.ArgumentParser:
    """Options of ``quickstart``."""
    parser = argparse.ArgumentParser(prog='tools/quickstart.sh', description=QUICKSTART)
    parser.add_argument(
        '--out',
        action=FolderOption,
        type=Path,
        help='new folder for the results (default: work_dirs/quickstart/<time>)',
    )
    parser.add_argument('--iterations', type=int, help='stop the training early; the gate will then fail')
    return parser
