"""The command ``suite``: train and test everything in a suite file, and print the outcome of each run."""

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

from mmbackbones.errors import InputError
from mmbackbones.evaluation.metric_names import format_metric, main_metrics
from mmbackbones.launch.command_line import suite_parser
from mmbackbones.launch.suite import Run, load_suite, run_suite
from mmbackbones.paths import find_config


def main(argv: list[str] | None = None) -> None:
    run(suite_parser().parse_args(argv))


def run(args: argparse.Namespace) -> None:
    """The same with the options of :func:`suite_parser`."""
    if args.jobs < 1:
        raise InputError(f'--jobs {args.jobs}: expected at least 1')

    work_dir = args.work_dir or str(Path('work_dirs', 'suites', Path(args.suite).stem))
    suite = load_suite(find_config(args.suite, 'suite'), work_dir, args.gpus)
    if args.dry_run:
        table = Table('run', 'seed', 'state')
        for run in suite.runs:
            table.add_row(run.training.name, str(run.seed), run.state())
        Console(width=120).print(table)
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        with contextlib.closing(run_suite(suite, work_dir, args.cluster, args.jobs)) as news_of_runs:
            _report(news_of_runs, len(suite.runs), work_dir)
    except KeyboardInterrupt:
        leave(signal.SIGINT, None)


def _report(news_of_runs: Iterator[tuple[Run, str]], count: int, work_dir: str) -> None:
    """Print the outcome of each run, and end with an error if any is not done."""
    started, ended, failed, elsewhere = time.monotonic(), 0, [], []
    for run, news in news_of_runs:
        ended += news != 'started'
        if news.startswith('failed'):
            failed.append(run)
        elif news.startswith('not started'):
            elsewhere.append(run)
        reached = (
            ', '.join(f'{label} {format_metric(label, value)}' for label, value in main_metrics(run.metrics()).items())
            if news == 'done'
            else ''
        )
        print(
            f'[{ended}/{count}] {run.name}: {news}{": " if reached else ""}{reached}  '
            f'({time.monotonic() - started:.0f} s)',
            flush=True,
        )
    rest = 'the others are done.'
    if elsewhere:
        running = f'running already, started by another call: {", ".join(run.name for run in elsewhere)}'
        rest = f'{len(elsewhere)} are {running}; {rest}'
    if failed:
        sys.exit(
            f'{len(failed)} of {count} runs failed: {", ".join(run.name for run in failed)}; {rest} '
            'The same command tries them again.'
        )
    if elsewhere:
        sys.exit(f'of {count} runs {rest}')
    print(f'{count} runs done in {work_dir}')
