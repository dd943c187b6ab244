"""Time and peak memory of a call, for all measurements.

Compared functions take turns in each round, so that they have the same conditions. A figure is the median over the
rounds. On a CPU with one thread the clock is the processor time of the process, so other work on the machine does not
count. On CUDA the time is measured on the device by events.

A call with short kernels takes as long as Python needs to launch them, and that says nothing about the kernels. So on
CUDA a call is also recorded as a CUDA graph, whose replay launches all its kernels at once.
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
WARM_UP_CALLS = 3  # before a recording, so that kernels are compiled and libraries have their workspaces


class NotRecordable(RuntimeError):
    """A call cannot be recorded as a CUDA graph. The message is one line with the reason."""


@dataclass
class Cost:
    """Time and memory of a call.

    Attributes:
        seconds (list[float]): seconds of one call by :func:`clock_name`, an entry per round.
        wall (list[float]): seconds of one of the same calls by the wall clock, the wait for the device included.
        replay (list[float]): seconds of a replay of the call as a CUDA graph; empty on a CPU, and where ``note`` says
            why the call has no graph.
        note (str): why there is no replay, in one line.
        peak (int | None): most bytes held during a call beyond those held before; None if this cannot be read.
    """

    seconds: list[float] = field(default_factory=list)
    peak: int | None = None
    wall: list[float] = field(default_factory=list)
    replay: list[float] = field(default_factory=list)
    note: str = ''


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
    costs, repeats, replays = {}, {}, {}

    def repeats_of(function: Callable[[], object]) -> int:
        return max(1, math.ceil(sample_seconds / seconds_of(function, 1, device)))

    for name, function in calls.items():
        costs[name] = Cost(peak=peak_memory(function, device))
        repeats[name] = repeats_of(function)
        if device == 'cuda':
            try:
                replay = recorded(function)
                replays[name] = replay, repeats_of(replay)
            except NotRecordable as error:
                costs[name].note = str(error)
    for name in in_turns(list(calls), rounds):
        seconds, wall = times_of(calls[name], repeats[name], device)
        costs[name].seconds.append(seconds)
        costs[name].wall.append(wall)
        if name in replays:
            costs[name].replay.append(seconds_of(*replays[name], device))
    return costs


def recorded(function: Callable[[], object]) -> Callable[[], None]:
    """Record a call as a CUDA graph on the current device.

    Args:
        function: launches kernels on CUDA, always the same ones, and does not wait for the device.

    Returns:
        the graph's replay, which launches all kernels of the call at once. The graph keeps its memory as long as the
        returned function lives.

    Raises:
        NotRecordable: the call cannot be recorded; the message has CUDA's reason.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            function()
        graph.replay()
        torch.cuda.synchronize()
    except RuntimeError as error:
        cause = error.__context__ or error  # leaving a broken recording raises in its turn
        reason = next(iter(str(cause).splitlines()), '') or type(cause).__name__
        raise NotRecordable(f'no replay, the call cannot be recorded as a CUDA graph: {reason}') from error
    return graph.replay


def in_turns(members: Sequence[T], rounds: int) -> Iterator[T]:
    """Yield all members in order, ``rounds`` times."""
    for _ in range(rounds):
        yield from members


def median(seconds: Sequence[float]) -> float | None:
    """Median of the rounds; None without rounds."""
    return statistics.median(seconds) if seconds else None


def seconds_of(function: Callable[[], object], repeats: int, device: str) -> float:
    """Mean seconds of consecutive calls by :func:`clock_name`. An untimed call before several ones fills the caches."""
    return times_of(function, repeats, device)[0]


def times_of(function: Callable[[], object], repeats: int, device: str) -> tuple[float, float]:
    """The same as :func:`seconds_of`, and the mean seconds of these calls by the wall clock."""
    if repeats > 1:
        function()
    if device == 'cuda':
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        wall = time.perf_counter()
        start.record()
        for _ in range(repeats):
            function()
        end.record()
        end.synchronize()
        return 1e-3 * start.elapsed_time(end) / repeats, (time.perf_counter() - wall) / repeats
    now = _clock()
    wall, start = time.perf_counter(), now()
    for _ in range(repeats):
        function()
    return (now() - start) / repeats, (time.perf_counter() - wall) / repeats


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
