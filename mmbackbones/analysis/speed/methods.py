"""Measure methods that compute the same result side by side, for the benchmarks of scans and of mixers."""

import argparse
import itertools
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from rich.table import Table

from mmbackbones.analysis.tables import rich_table, show, write_csv
from mmbackbones.analysis.timing import clock_name, measure_in_turns, median
from mmbackbones.evaluation.environment import cpu_model, environment, installed
from mmbackbones.ops.selective_scan import cpu

DIRECTIONS = ('forward', 'forward+backward')
COLUMNS = (
    'case',
    'shape',
    'pass',
    'method',
    'median_ms',
    'min_ms',
    'max_ms',
    'ns_per_element',
    'times_default',
    'replay_ms',
    'replay_times_default',
    'wall_ms',
    'peak_mb',
    'parity',
    'note',
)


@dataclass
class MethodTiming:
    """Measurement of one method on one case and pass, or the reason why there is none.

    Attributes:
        case, shape (str): name and shape of the case.
        direction (str): one of :data:`DIRECTIONS`.
        method (str): name of the method.
        elements (int): number of elements of (B, D, L), by which time is divided.
        seconds (list[float]): seconds of one call, an entry per round.
        wall (list[float]): the same by the wall clock.
        replay (list[float]): seconds of a replay as a CUDA graph, an entry per round; empty on a CPU.
        peak (int | None): most bytes held beyond those held before.
        parity (float | None): largest relative error against the specification in float64; None if not compared.
        ratio (float | None): median time over that of the base.
        replay_ratio (float | None): the same for the replays.
        note (str): reason why there is no time, no ratio or no replay.
    """

    case: str
    shape: str
    direction: str
    method: str
    elements: int
    seconds: list[float] = field(default_factory=list)
    peak: int | None = None
    parity: float | None = None
    ratio: float | None = None
    note: str = ''
    wall: list[float] = field(default_factory=list)
    replay: list[float] = field(default_factory=list)
    replay_ratio: float | None = None

    @property
    def median(self) -> float | None:
        return median(self.seconds)


def measure_methods(
    timings: Sequence[MethodTiming],
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    device: str,
    base: str | None,
    tolerance: float,
) -> None:
    """Measure time, memory and ratio of each method.

    Args:
        timings: one per method, of one case and pass.
        calls: the methods that can run, by name.
        rounds: timed rounds.
        device: ``'cpu'`` or ``'cuda'``.
        base: the method to whose time ratios refer.
        tolerance: largest error that passes. A method with a larger error gets a note in place of a ratio. If the base
            has a larger error, no method gets a ratio.
    """
    costs = measure_in_turns(calls, rounds, device)
    for timing in timings:
        if timing.method in costs:
            cost = costs[timing.method]
            timing.seconds, timing.wall, timing.replay, timing.peak = cost.seconds, cost.wall, cost.replay, cost.peak
            timing.note = cost.note
    measured = {timing.method: timing for timing in timings if timing.seconds}
    over = measured.get(base)
    for timing in timings:
        if timing.parity is not None and not timing.parity <= tolerance:  # NaN fails too
            timing.note = f'PARITY FAILS: {timing.parity:.1e}'
        elif timing.seconds and over is not None and over.parity <= tolerance:
            timing.ratio = timing.median / over.median
            if timing.replay and over.replay:
                timing.replay_ratio = median(timing.replay) / median(over.replay)


def conditions(device: str, dtype: torch.dtype) -> dict[str, str]:
    """The columns of every line of a CSV that describe machine, software and date."""
    about = environment()
    name = torch.cuda.get_device_name() if device == 'cuda' else f'{cpu_model()}, {cpu.isa() or "no kernel"}'
    versions = {'torch': torch.__version__, 'python': platform.python_version()}
    versions |= installed(('triton', 'mambapy', 'mamba_ssm'))
    return dict(
        date=about['date'][:10],
        device=f'{name}, {torch.get_num_threads()} thread(s)',
        dtype=str(dtype).removeprefix('torch.'),
        versions=', '.join(f'{package} {version}' for package, version in versions.items()),
        clock=clock_name(device),
        commit=about['commit'] or 'unknown',
    )


def run_benchmark(
    args: argparse.Namespace, benchmark: Callable[[str, torch.dtype, int], Iterable[MethodTiming]]
) -> bool:
    """Measure the chosen cases at the chosen batches. After each one, print its table and write the CSV.

    Args:
        args: arguments of :func:`mmbackbones.analysis.speed.options.benchmark_parser`.
        benchmark: function that measures a case, given its name, the dtype and the batch.

    Returns:
        bool: whether every method passed the parity check.

    Raises:
        InputError: the CSV cannot be written.
    """
    torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    about = conditions(args.device, dtype)
    show(', '.join(about.values()))
    timings: list[MethodTiming] = []
    for case, batch in itertools.product(args.cases, args.batch):
        found = list(benchmark(case, dtype, batch))
        timings += found
        show(f'{case} {found[-1].shape}', _table(found))
        if args.csv:
            write_timings(args.csv, timings, about)
    return not any(timing.note.startswith('PARITY') for timing in timings)


def _table(timings: Sequence[MethodTiming]) -> Table:
    columns = ['pass', 'method', 'median ms', 'spread ms', 'ns/element', 'x base', 'peak MB', 'parity', 'note']
    on_cuda = any(timing.replay for timing in timings)
    if on_cuda:
        columns[6:6] = ['replay ms', 'x base', 'wall ms']
    rows = []
    for timing in timings:
        times = [None] * 3
        if timing.seconds:
            times = [
                f'{1e3 * timing.median:.3f}',
                f'{1e3 * min(timing.seconds):.3f}-{1e3 * max(timing.seconds):.3f}',
                f'{1e9 * timing.median / timing.elements:.2f}',
            ]
        rows.append(
            [
                timing.direction,
                timing.method,
                *times,
                timing.ratio and f'{timing.ratio:.3g}',
                *(
                    [
                        timing.replay and f'{1e3 * median(timing.replay):.3f}',
                        timing.replay_ratio and f'{timing.replay_ratio:.3g}',
                        timing.wall and f'{1e3 * median(timing.wall):.3f}',
                    ]
                    if on_cuda
                    else []
                ),
                None if timing.peak is None else f'{timing.peak / 1e6:.0f}',
                None if timing.parity is None else f'{timing.parity:.1e}',
                timing.note,
            ]
        )
    return rich_table(columns, rows)


def write_timings(path: str, timings: Sequence[MethodTiming], about: Mapping[str, str]) -> None:
    """One line per timing by :data:`COLUMNS`, with the conditions on each.

    Raises:
        InputError: the file cannot be written.
    """
    rows = []
    for timing in timings:
        seconds = timing.seconds
        times = [1e3 * x for x in (timing.median, min(seconds), max(seconds))] if seconds else [None] * 3
        rows.append(
            [
                timing.case,
                timing.shape,
                timing.direction,
                timing.method,
                *times,
                1e9 * timing.median / timing.elements if seconds else None,
                timing.ratio,
                1e3 * median(timing.replay) if timing.replay else None,
                timing.replay_ratio,
                1e3 * median(timing.wall) if timing.wall else None,
                None if timing.peak is None else f'{timing.peak / 1e6:.1f}',
                None if timing.parity is None else f'{timing.parity:.1e}',
                timing.note,
            ]
        )
    write_csv(path, COLUMNS, rows, '.4g', about)
