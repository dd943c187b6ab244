"""The selective scan timed side by side with what people use today, after a parity check."""

import csv
import ctypes
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import math
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from mmbackbones.analysis.speed import scan_peers
from mmbackbones.errors import InputError
from mmbackbones.ops.selective_scan import native, selective_scan, selective_scan_backend
from mmbackbones.ops.selective_scan.dispatch import BACKENDS


@dataclasses.dataclass(frozen=True)
class Case:
    """batch, dim D over all groups, length L, state N, groups; ``gate``: with z."""

    batch: int
    dim: int
    length: int
    state: int
    groups: int
    gate: bool

    @property
    def elements(self) -> int:
        return self.batch * self.dim * self.length

    def inputs(self, device: str, dtype: torch.dtype, length: int | None = None) -> list[Tensor | None]:
        """u, delta, A, B, C, D, z, delta_bias with Mamba's initial A = -1..-N and steps of 0.001 to 0.1."""
        generator = torch.Generator().manual_seed(0)
        length = length or self.length

        def normal(*shape):
            return torch.randn(shape, generator=generator)

        sequence, maps = (self.batch, self.dim, length), (self.batch, self.groups, self.state, length)
        step = torch.exp(torch.linspace(-6.9, -2.3, self.dim))
        A = -torch.arange(1.0, self.state + 1).repeat(self.dim, 1)
        sequences = [normal(*sequence), 0.1 * normal(*sequence), normal(*maps), normal(*maps)]
        u, delta, B, C = (x.to(device, dtype) for x in sequences)
        z = normal(*sequence).to(device, dtype) if self.gate else None
        A, D, delta_bias = (x.to(device) for x in (A, normal(self.dim), step.expm1().log()))
        return [u, delta, A, B, C, D, z, delta_bias]


def vim(dim: int, size: int) -> Case:
    return Case(1, dim, (size // 16) ** 2 + 1, 16, 1, True)


def vmamba(stage: int) -> Case:
    return Case(1, 4 * 96 << stage, 64000 >> 2 * stage, 1, 4, False)


CASES = {f'n16-{length}': Case(1, 384, length, 16, 1, True) for length in (196, 1024, 4096, 65536)}
CASES |= {f'n1-{length}': Case(1, 768, length, 1, 4, False) for length in (1024, 4096)}
CASES |= {f'vim-{name}-{size}': vim(dim, size) for name, dim in dict(t=384, s=768).items() for size in (224, 512, 1248)}
CASES |= {f'vmamba-t-stage{stage + 1}': vmamba(stage) for stage in range(4)}

PEERS: dict[str, Callable] = {
    'mamba_ssm loop': scan_peers.mamba_ssm_loop,
    'Hugging Face loop': scan_peers.hugging_face_loop,
    'mambapy': scan_peers.mambapy_scan,
    'mamba_ssm CUDA': scan_peers.mamba_ssm_cuda,
}
# Whose backward is quadratic in the length.
LOOPS = ('mamba_ssm loop', 'Hugging Face loop')
# The exponentials of the recurrence alone, from registers to registers: this core's bounds of a forward pass. The usual
# one, a polynomial, and the stricter one, with the table that the native kernel has.
BOUNDS = {'exp2 polynomial in registers': 'scan_exponentials_polynomial', 'table exp alone': 'scan_exponentials_table'}
METHODS = (*BACKENDS, *PEERS, *BOUNDS)
ONLY_CUDA = ('triton', 'mamba_ssm', 'mamba_ssm CUDA')

SAMPLE_SECONDS = 0.05
# Copies of (B, D, L, N) in float32 that the methods which materialise it hold, without and with the backward.
COPIES = {'forward': 6, 'forward+backward': 12}
MATERIALISING = ('reference', *PEERS)

PARITY_LENGTH = 130
PARITY = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
NAMES = ('out', 'u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias')


@dataclasses.dataclass
class Row:
    """One method on one case and pass: seconds, bytes beyond what was held before, or why there is no time."""

    case: str
    shape: str
    direction: str
    method: str
    elements: int
    seconds: list[float] = dataclasses.field(default_factory=list)
    peak: int | None = None
    parity: float | None = None
    ratio: float | None = None
    note: str = ''

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None


def unavailable(method: str, case: Case, device: str) -> str | None:
    """Why a method can't run a case here, None if it can."""
    if device == 'cpu' and method in ONLY_CUDA:
        return 'CUDA only'
    if method in BACKENDS:
        try:
            selective_scan_backend(device, method)
        except InputError as error:
            return str(error)
    elif method == 'mambapy' and importlib.util.find_spec('mambapy') is None:
        return 'mambapy is not installed'
    elif method == 'mamba_ssm CUDA' and importlib.util.find_spec('mamba_ssm') is None:
        return 'mamba_ssm is not installed'
    elif method in BOUNDS and (device != 'cpu' or native.available() is not None):
        return 'needs the native kernel'
    elif method in ('Hugging Face loop', 'mambapy') and case.groups > 1:
        return 'one group only'
    return None


def call(method: str, inputs: list[Tensor | None], dout: Tensor | None) -> list[Tensor]:
    """Output, and with ``dout`` also the gradients."""
    scan = PEERS.get(method) or (lambda *inputs: selective_scan(*inputs, True, backend=method))
    if dout is None:
        with torch.no_grad():
            return [scan(*inputs)]
    inputs = [None if x is None else x.detach().requires_grad_() for x in inputs]
    out = scan(*inputs)
    return [out.detach(), *torch.autograd.grad(out, [x for x in inputs if x is not None], dout)]


def call_of(method: str, case: Case, inputs: list[Tensor | None], dout: Tensor | None) -> Callable:
    if method not in BOUNDS:
        return lambda: call(method, inputs, dout)
    library = native.load(native.isa())
    function, count = getattr(library, BOUNDS[method]), case.elements * case.state // (8 * library.scan_lanes())
    return lambda: function(count)


def parity(method: str, case: Case, device: str, dtype: torch.dtype) -> float:
    """Largest error over output and gradients, each relative to its largest magnitude in the float64 reference."""
    inputs = case.inputs(device, dtype, PARITY_LENGTH)
    dout = torch.ones_like(inputs[0])
    actual = call(method, inputs, dout)
    expected = call('reference', [None if x is None else x.double() for x in inputs], dout.double())
    return max(float((x.double() - y).abs().max() / y.abs().max()) for x, y in zip(actual, expected))


def expected_seconds(method: str, case: Case, direction: str, device: str, dtype: torch.dtype) -> float:
    """From a short sequence, linear or, for the backward of the loops, quadratic in the length."""
    inputs = case.inputs(device, dtype, PARITY_LENGTH)
    dout = torch.ones_like(inputs[0]) if direction == 'forward+backward' else None
    seconds = min(seconds_of(lambda: call(method, inputs, dout), 1, device) for _ in range(2))
    growth = case.length / PARITY_LENGTH
    return seconds * (growth**2 if method in LOOPS and dout is not None else growth)


def benchmark(
    case_name: str, methods: list[str], device: str, dtype: torch.dtype, rounds: int, limit: float, limit_gb: float
) -> Iterator[Row]:
    """Time methods on a case, forward and forward+backward, one round after the other so that all share the conditions.

    Ratios are times over that of the default backend. A method that fails the parity check is timed without a ratio;
    one that would take more than ``limit`` seconds a call or ``limit_gb`` of memory is left out, and the row says so.
    """
    case = CASES[case_name]
    shape = f'({case.batch},{case.dim},{case.length},N={case.state},G={case.groups})'
    default = selective_scan_backend(device).name
    methods = [x for x in methods if device == 'cuda' or x not in ONLY_CUDA]
    compared = [x for x in methods if x not in BOUNDS and not unavailable(x, case, device)]
    parities = {x: parity(x, case, device, dtype) for x in compared}
    for direction in ('forward', 'forward+backward'):
        rows = [
            Row(case_name, shape, direction, method, case.elements, parity=parities.get(method))
            for method in methods
            if method not in BOUNDS or direction == 'forward'
        ]
        inputs = case.inputs(device, dtype)
        dout = torch.randn_like(inputs[0]) if direction == 'forward+backward' else None
        calls = {}
        for row in rows:
            row.note = unavailable(row.method, case, device) or ''
            size = 4e-9 * case.elements * case.state * COPIES[direction]
            if not row.note and row.method in MATERIALISING and size > limit_gb:
                row.note = f'left out: about {size:.0f} GB'
            if not row.note and row.parity is not None:
                seconds = expected_seconds(row.method, case, direction, device, dtype)
                row.note = f'left out: about {seconds:.0f} s a call' if seconds > limit else ''
            if not row.note:
                calls[row.method] = call_of(row.method, case, inputs, dout)
        running = [row for row in rows if row.method in calls]
        for row in running:
            row.peak = peak_memory(calls[row.method], device)
        repeats = {
            x: max(1, math.ceil(SAMPLE_SECONDS / seconds_of(function, 1, device))) for x, function in calls.items()
        }
        for _ in range(rounds):
            for row in running:
                row.seconds.append(seconds_of(calls[row.method], repeats[row.method], device))
        base = next((row for row in running if row.method == default and row.parity <= PARITY[dtype]), None)
        for row in rows:
            if row.parity is not None and not row.parity <= PARITY[dtype]:
                row.note = f'PARITY FAILS: {row.parity:.1e}'
            elif base is not None and row.median is not None:
                row.ratio = row.median / base.median
                if row.method in BOUNDS:
                    row.note = f'{default} reaches {row.ratio:.0%} of it'
        yield from rows


def clock(device: str) -> Callable[[], float]:
    """Of one thread on a CPU the time that it had, whatever else ran on the machine; else the time on the wall."""
    return time.process_time if device == 'cpu' and torch.get_num_threads() == 1 else time.perf_counter


def seconds_of(function: Callable, repeats: int, device: str) -> float:
    """Mean over calls in a row; several are preceded by one that brings back what others drove from the caches."""
    now = clock(device)
    if repeats > 1:
        function()
    _wait(device)
    start = now()
    for _ in range(repeats):
        function()
    _wait(device)
    return (now() - start) / repeats


def _wait(device: str) -> None:
    if device == 'cuda':
        torch.cuda.synchronize()


def peak_memory(function: Callable, device: str) -> int | None:
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
    before = _status('VmRSS')
    result = function()
    peak = _status('VmHWM') - before
    del result
    return peak


def _status(field: str) -> int:
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise ValueError(field)


def environment(device: str, dtype: torch.dtype) -> dict[str, str]:
    """What a row of the CSV says about where it was measured."""
    name = torch.cuda.get_device_name() if device == 'cuda' else f'{_cpu_name()}, {native.isa() or "no kernel"}'
    versions = f'torch {torch.__version__}, python {platform.python_version()}'
    for package in ('triton', 'mambapy', 'mamba_ssm'):
        if importlib.util.find_spec(package) is not None:
            versions += f', {package} {importlib.metadata.version(package.replace("_", "-"))}'
    return dict(
        date=datetime.date.today().isoformat(),
        device=f'{name}, {torch.get_num_threads()} thread(s)',
        dtype=str(dtype).removeprefix('torch.'),
        versions=versions,
        clock='CPU time' if clock(device) is time.process_time else 'wall clock',
        commit=_commit(device),
    )


def _cpu_name() -> str:
    for line in Path('/proc/cpuinfo').read_text().splitlines() if Path('/proc/cpuinfo').exists() else ():
        if line.startswith('model name'):
            family = [
                x.split(':')[1].strip()
                for x in Path('/proc/cpuinfo').read_text().splitlines()
                if x.startswith(('cpu family', 'model\t'))
            ][:2]
            return f'{line.split(":")[1].strip()} (family {family[0]}, model {family[1]})'
    return platform.processor() or platform.machine()


def _commit(device: str) -> str:
    """The last commit that changed a kernel or this benchmark, marked if they have changed since."""
    git = ['git', '-C', str(Path(__file__).parents[3])]
    paths = ['--', 'mmbackbones/ops/selective_scan', 'mmbackbones/analysis/scan_*.py']
    if device == 'cpu':
        paths.append(':(exclude)*/triton*')
    commit, changed = (
        subprocess.run([*git, *command, *paths], capture_output=True, text=True).stdout.strip()
        for command in (['log', '-1', '--format=%h'], ['status', '--porcelain', '-uno'])
    )
    return (commit or 'unknown') + (' with changes' if changed else '')


def write_csv(rows: list[Row], path: str | Path, conditions: dict[str, str]) -> None:
    """One line per row, with the conditions on each."""
    fields = [
        'case',
        'shape',
        'pass',
        'method',
        'median_ms',
        'min_ms',
        'max_ms',
        'ns_per_element',
        'times_default',
        'peak_mb',
        'parity',
        'note',
    ]
    with open(path, 'w', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow([*fields, *conditions])
        for row in rows:
            times = (
                [f'{1e3 * x:.4g}' for x in (row.median, min(row.seconds), max(row.seconds))]
                if row.seconds
                else [''] * 3
            )
            writer.writerow(
                [
                    row.case,
                    row.shape,
                    row.direction,
                    row.method,
                    *times,
                    f'{1e9 * row.median / row.elements:.4g}' if row.seconds else '',
                    '' if row.ratio is None else f'{row.ratio:.4g}',
                    '' if row.peak is None else f'{row.peak / 1e6:.1f}',
                    '' if row.parity is None else f'{row.parity:.1e}',
                    row.note,
                    *conditions.values(),
                ]
            )
