"""The selective scan timed side by side with what people use today, after a parity check."""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from mmbackbones.analysis.speed import scan_peers
from mmbackbones.analysis.speed.methods import DIRECTIONS, MethodTiming, measure_methods
from mmbackbones.analysis.speed.scan_cases import BOUNDS, CASES, PEERS, ScanCase
from mmbackbones.analysis.timing import seconds_of
from mmbackbones.choices import BACKENDS
from mmbackbones.errors import InputError
from mmbackbones.ops.selective_scan import cpu, mamba_ssm, selective_scan, selective_scan_backend

# Whose backward is quadratic in the length.
LOOPS = ('mamba_ssm loop', 'Hugging Face loop')
ONLY_CUDA = ('triton', 'mamba_ssm', 'mamba_ssm CUDA')

# Copies of (B, D, L, N) in float32 that the methods which materialise it hold, without and with the backward.
COPIES = {'forward': 6, 'forward+backward': 12}
MATERIALISING = ('naive', *PEERS)

PARITY_LENGTH = 130
PARITY = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def inputs_of(case: ScanCase, device: str, dtype: torch.dtype, length: int | None = None) -> list[Tensor | None]:
    """u, delta, A, B, C, D, z, delta_bias with Mamba's initial A = -1..-N and steps of 0.001 to 0.1."""
    generator = torch.Generator().manual_seed(0)
    length = length or case.length

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    sequence, maps = (case.batch, case.dim, length), (case.batch, case.groups, case.state, length)
    step = torch.exp(torch.linspace(-6.9, -2.3, case.dim))
    A = -torch.arange(1.0, case.state + 1).repeat(case.dim, 1)
    sequences = [normal(*sequence), 0.1 * normal(*sequence), normal(*maps), normal(*maps)]
    u, delta, B, C = (x.to(device, dtype) for x in sequences)
    z = normal(*sequence).to(device, dtype) if case.gate else None
    A, D, delta_bias = (x.to(device) for x in (A, normal(case.dim), step.expm1().log()))
    return [u, delta, A, B, C, D, z, delta_bias]


def unavailable(method: str, case: ScanCase, device: str) -> str | None:
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
    elif method == 'mamba_ssm CUDA':
        return mamba_ssm.available()
    elif method in BOUNDS and (device != 'cpu' or cpu.available() is not None):
        return 'needs the C++ kernel'
    elif method in ('Hugging Face loop', 'mambapy') and case.groups > 1:
        return 'one group only'
    return None


def call(method: str, inputs: list[Tensor | None], dout: Tensor | None) -> list[Tensor]:
    """Output, and with ``dout`` also the gradients."""
    peer = getattr(scan_peers, PEERS[method]) if method in PEERS else None
    scan = peer or (lambda *inputs: selective_scan(*inputs, True, backend=method))
    if dout is None:
        with torch.no_grad():
            return [scan(*inputs)]
    inputs = [None if x is None else x.detach().requires_grad_() for x in inputs]
    out = scan(*inputs)
    return [out.detach(), *torch.autograd.grad(out, [x for x in inputs if x is not None], dout)]


def call_of(method: str, case: ScanCase, inputs: list[Tensor | None], dout: Tensor | None) -> Callable:
    if method not in BOUNDS:
        return lambda: call(method, inputs, dout)
    library = cpu.load(cpu.isa())
    function, count = getattr(library, BOUNDS[method]), case.elements * case.state // (8 * library.scan_lanes())
    return lambda: function(count)


def parity(method: str, case: ScanCase, device: str, dtype: torch.dtype) -> float:
    """Largest error over output and gradients, each relative to its largest magnitude in float64 by ``naive``."""
    inputs = inputs_of(case, device, dtype, PARITY_LENGTH)
    dout = torch.ones_like(inputs[0])
    actual = call(method, inputs, dout)
    expected = call('naive', [None if x is None else x.double() for x in inputs], dout.double())
    return max(float((x.double() - y).abs().max() / y.abs().max()) for x, y in zip(actual, expected))


def expected_seconds(method: str, case: ScanCase, direction: str, device: str, dtype: torch.dtype) -> float:
    """From a short sequence, linear or, for the backward of the loops, quadratic in the length."""
    inputs = inputs_of(case, device, dtype, PARITY_LENGTH)
    dout = torch.ones_like(inputs[0]) if direction == 'forward+backward' else None
    seconds = min(seconds_of(lambda: call(method, inputs, dout), 1, device) for _ in range(2))
    growth = case.length / PARITY_LENGTH
    return seconds * (growth**2 if method in LOOPS and dout is not None else growth)


def benchmark(
    case_name: str,
    methods: list[str],
    device: str,
    dtype: torch.dtype,
    rounds: int,
    limit: float,
    limit_gb: float,
    batch: int = 1,
) -> Iterator[MethodTiming]:
    """Time methods on a case, forward and forward+backward; ratios are over the default backend.

    A method that fails the parity check is timed without a ratio. One that would take more than ``limit`` seconds a
    call, or ``limit_gb`` of memory, is left out, and its row says so.
    """
    case = replace(CASES[case_name], batch=batch)
    shape = f'({case.batch},{case.dim},{case.length},N={case.state},G={case.groups})'
    default = selective_scan_backend(device).name
    methods = [x for x in methods if device == 'cuda' or x not in ONLY_CUDA]
    compared = [x for x in methods if x not in BOUNDS and not unavailable(x, case, device)]
    parities = {x: parity(x, case, device, dtype) for x in compared}
    for direction in DIRECTIONS:
        timings = [
            MethodTiming(case_name, shape, direction, method, case.elements, parity=parities.get(method))
            for method in methods
            if method not in BOUNDS or direction == 'forward'
        ]
        inputs = inputs_of(case, device, dtype)
        dout = torch.randn_like(inputs[0]) if direction == 'forward+backward' else None
        calls = {}
        for timing in timings:
            timing.note = unavailable(timing.method, case, device) or too_costly(
                timing, case, device, dtype, limit, limit_gb
            )
            if not timing.note:
                calls[timing.method] = call_of(timing.method, case, inputs, dout)
        measure_methods(timings, calls, rounds, device, default, PARITY[dtype])
        for timing in timings:
            if timing.method in BOUNDS and timing.ratio is not None:
                timing.note = f'{default} reaches {timing.ratio:.0%} of it'
        yield from timings


def too_costly(
    timing: MethodTiming, case: ScanCase, device: str, dtype: torch.dtype, limit: float, limit_gb: float
) -> str:
    """Why a method is left out, by the memory or the time that it would need; empty if it is not."""
    size = 4e-9 * case.elements * case.state * COPIES[timing.direction]
    if timing.method in MATERIALISING and size > limit_gb:
        return f'left out: about {size:.0f} GB'
    if timing.method not in BOUNDS:
        seconds = expected_seconds(timing.method, case, timing.direction, device, dtype)
        if seconds > limit:
            return f'left out: about {seconds:.0f} s a call'
    return ''
