"""Time and peak memory of a call, for all measurements.

Compared functions take turns in each round, so that they have the same conditions. A figure is the median over the
rounds. On a CPU with one thread the clock is the processor time of the process, so other work on the machine does not
count. On CUDA the time is measured on the device by events.
"""

import ctypes
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar('T')
SAMPLE_SECONDS = 0.05  # a round calls a short function as often as fills this


@dataclass
class Cost:
    """Time and memory of a call.

    Attributes:
        seconds (list[float]): seconds of one call, an entry per round.
        peak (int | None): most bytes held during a call beyond those held before; None if this cannot be read.
    """

    seconds: list[float] = field(default_factory=list)
    peak: int | None = None


def measure_in_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int, device: str, sample_seconds: float | None = None
) -> dict[str, Cost]:
    """Measure functions side by side.

    Args:
        calls: functions by name.
        rounds: timed rounds. In each round every function runs for about ``sample_seconds``.
        device: ``'cpu'`` or ``'cuda'``.
        sample_seconds: duration of one function in one round; by default ``SAMPLE_SECONDS``.
    """
    sample_seconds = SAMPLE_SECONDS if sample_seconds is None else sample_seconds
    costs, repeats = {}, {}
    for name, function in calls.items():
        costs[name] = Cost(peak=peak_memory(function, device))
        repeats[name] = max(1, math.ceil(sample_seconds / seconds_of(function, 1, device)))
    for name in in_turns(list(calls), rounds):
        costs[name].seconds.append(seconds_of(calls[name], repeats[name], device))
    return costs


def in_turns(members: Sequence[T], rounds: int) -> Iterator[T]:
    """Yield all members in order, ``rounds`` times."""
    for _ in range(rounds):
        yield from members


def median(seconds: Sequence[float]) -> float | None:
    """Median of the rounds; None without rounds."""
    return statistics.median(seconds) if seconds else None


def seconds_of(function: Callable[[], object], repeats: int, device: str) -> float:
    """Mean seconds of consecutive calls. An untimed call before several ones fills the caches."""
    if repeats > 1:
        function()
    if device == 'cuda':
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(repeats):
            function()
        end.record()
        end.synchronize()
        return 1e-3 * start.elapsed_time(end) / repeats
    now = _clock()
    start = now()
    for _ in range(repeats):
        function()
    return (now() - start) / repeats


def _clock() -> Callable[[], float]:
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def clock_name(device: str) -> str:
    """Clock of :func:`seconds_of`: ``'CPU time'`` (one thread), ``'wall clock'`` (several) or ``'CUDA events'``."""
    if device == 'cuda':
        return 'CUDA events'
    return 'CPU time' if _clock() is time.process_time else 'wall clock'


def wall_and_cpu(function: Callable[[], T]) -> tuple[T, float, float]:
    """Call a function once. Returns its result, wall-clock seconds and processor seconds of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def peak_memory(function: Callable[[], object], device: str) -> int | None:
    """Most bytes held during a call beyond those held before, results included; None where that can't be read."""
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path('/proc/self/clear_refs').write_text('5')  # resets the high-water mark
    except (OSError, AttributeError):
        return None
    before = process_bytes('VmRSS')
    result = function()
    peak = process_bytes('VmHWM') - before
    del result
    return peak


def process_bytes(field: str, file: str = '/proc/self/status') -> int | None:
    """Bytes of an entry of Linux's /proc; None on other systems."""
    if not Path(file).exists():
        return None
    for line in Path(file).read_text().splitlines():
        if line.startswith(f'{field}:'):
            return int(line.split()[1]) * 1024
    return None
