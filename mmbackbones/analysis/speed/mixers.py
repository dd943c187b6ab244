"""Vim's and VMamba's token mixers timed with either directional scan and among copies, after a parity check.

``triton`` and ``composed`` are the implementations of the directional scan: one operator between the first and the last
projection, and one that convolves, projects and gates apart. ``copies`` does what the published blocks do, flips for
Vim and copies of the map in four orders for VMamba, around the same scan; ``mamba_ssm`` is that around the official
kernels: the scan, and for Vim causal_conv1d's convolution where that package is installed.
"""

import copy
import functools
import importlib.util
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbackbones.analysis.speed.methods import DIRECTIONS, MethodTiming, measure_methods
from mmbackbones.analysis.speed.mixer_cases import CASES, MixerCase
from mmbackbones.errors import InputError
from mmbackbones.layers.mamba import MambaMixer
from mmbackbones.layers.ss2d import SS2D, in_float32
from mmbackbones.ops.scan_orders import cross_merge, cross_scan
from mmbackbones.ops.selective_scan import selective_scan, selective_scan_backend, use_scans

# Relative to the largest magnitude in float64, the products in the tokens' precision included.
PARITY = {torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 1e-2}
PARITY_SIZE = 9, 13


def layer_of(case: MixerCase) -> nn.Module:
    """The mixer with its first weights."""
    torch.manual_seed(0)
    if case.family == 'vim':
        return MambaMixer(case.dim, direction='ssm_conv', divide_out=True)
    return SS2D(case.dim, d_state=1, ssm_ratio=1.0)


def tokens_of(case: MixerCase, size: tuple[int, int] | None = None, batch: int = 1) -> Tensor:
    """The mixer's input, of another size if one is given."""
    height, width = size or case.size
    generator = torch.Generator().manual_seed(0)
    if case.family == 'vim':
        return torch.randn(batch, height * width + 1, case.dim, generator=generator)
    return torch.randn(batch, height, width, case.dim, generator=generator)


def causal_conv(conv: nn.Conv1d, u: Tensor) -> Tensor:
    """SiLU of a causal depthwise convolution of (B, D, L), by torch's operators."""
    return F.silu(F.conv1d(u, conv.weight, conv.bias, padding=3, groups=conv.groups)[..., : u.shape[2]])


def official_causal_conv(conv: nn.Conv1d, u: Tensor) -> Tensor:
    """The same by the operator of causal_conv1d (https://github.com/Dao-AILab/causal-conv1d)."""
    from causal_conv1d import causal_conv1d_fn

    return causal_conv1d_fn(u, conv.weight.squeeze(1).to(u.dtype), conv.bias.to(u.dtype), activation='silu')


def vim_with_flips(mixer: MambaMixer, x: Tensor, convolve: Callable = causal_conv) -> Tensor:
    """Both directions with a causal convolution and scan, the second of flipped tokens and gate."""
    xz = mixer.in_proj(x).transpose(1, 2)  # [B, L, C] -> [B, 2 D, L]
    total = 0
    for suffix, flips in (('', False), ('_b', True)):
        u, z = (xz.flip(-1) if flips else xz).chunk(2, dim=1)
        conv, x_proj, dt_proj, A_log, D = (
            getattr(mixer, name.format(suffix)) for name in ('conv1d{}', 'x_proj{}', 'dt_proj{}', 'A{}_log', 'D{}')
        )
        u = convolve(conv, u)
        low_rank, B, C = (
            x_proj(u.transpose(1, 2)).transpose(1, 2).split([mixer.dt_rank, mixer.d_state, mixer.d_state], dim=1)
        )
        delta = F.linear(low_rank.transpose(1, 2), dt_proj.weight).transpose(1, 2)
        y = selective_scan(
            u, delta, -torch.exp(A_log.float()), B.contiguous(), C.contiguous(), D, z, dt_proj.bias, True
        )
        total = total + (y.flip(-1) if flips else y)
    return mixer.out_proj((total / 2).transpose(1, 2))


def vmamba_with_copies(mixer: SS2D, x: Tensor) -> Tensor:
    """Four copies of the map, each projected and scanned as a group of channels, then brought back and summed."""
    height, width = x.shape[1:3]
    x = F.silu(mixer.conv2d(mixer.in_proj(x).permute(0, 3, 1, 2)))  # [B, H, W, C] -> [B, D, H, W]
    xs = cross_scan(x)  # -> [B, 4, D, L]
    projected = torch.einsum('bkdl,kcd->bkcl', xs, mixer.x_proj_weight)
    low_rank, B, C = projected.split([mixer.dt_rank, mixer.d_state, mixer.d_state], dim=2)
    delta = torch.einsum('bkrl,kdr->bkdl', low_rank, mixer.dt_projs_weight)
    y = selective_scan(
        in_float32(xs).flatten(1, 2),
        delta.flatten(1, 2),
        -torch.exp(in_float32(mixer.A_logs)),
        B.contiguous(),
        C.contiguous(),
        mixer.Ds,
        None,
        mixer.dt_projs_bias.flatten(),
        True,
    )
    y = cross_merge(y.unflatten(1, (4, -1)), height, width)
    return mixer.out_proj(mixer.out_norm(y.transpose(1, 2)).unflatten(1, (height, width)))


WITH_COPIES: dict[str, Callable] = {'vim': vim_with_flips, 'vmamba': vmamba_with_copies}


def with_official_operators(family: str) -> Callable:
    """The published way of a family; the scan is the one that :func:`use_scans` names."""
    if family == 'vim' and importlib.util.find_spec('causal_conv1d') is not None:
        return functools.partial(vim_with_flips, convolve=official_causal_conv)
    return WITH_COPIES[family]


def unavailable(method: str, device: str) -> str | None:
    """Why a method can't run here, None if it can."""
    if method == 'triton' and selective_scan_backend(device).name != 'triton':
        return 'the scan is not Triton here'
    if method == 'mamba_ssm':
        if importlib.util.find_spec('mamba_ssm') is None:
            return 'mamba_ssm is not installed'
        try:
            selective_scan_backend(device, 'mamba_ssm')
        except InputError as error:
            return str(error)
    return None


def call(method: str, case: MixerCase, layer: nn.Module, x: Tensor, dtype: torch.dtype, backward: bool) -> list[Tensor]:
    """Output, and with ``backward`` the gradients of the input and all parameters, for a gradient of ones."""
    parameters = list(layer.parameters())
    scans = {'triton': dict(directional='triton'), 'composed': dict(directional='composed')}
    scans['mamba_ssm'] = dict(backend='mamba_ssm')
    ways = dict(copies=WITH_COPIES.__getitem__, mamba_ssm=with_official_operators)
    function = functools.partial(ways[method](case.family), layer) if method in ways else layer
    with use_scans(**scans.get(method, {})), torch.set_grad_enabled(backward):
        x = x.detach().requires_grad_(backward)
        with torch.autocast(x.device.type, dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
            y = function(x)
        if not backward:
            return [y]
        return [y.detach(), *torch.autograd.grad(y, [x, *parameters], torch.ones_like(y))]


def parity(method: str, case: MixerCase, device: str, dtype: torch.dtype) -> float:
    """Largest error over output and gradients on a small map, each relative to its largest magnitude in float64."""
    layer, x = layer_of(case), tokens_of(case, PARITY_SIZE)
    with use_scans(backend='chunk'):
        expected = call('composed', case, copy.deepcopy(layer).double(), x.double(), torch.float64, backward=True)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        actual = call(method, case, layer.to(device), x.to(device), dtype, backward=True)
    return max(float((a.cpu().double() - e).abs().max() / e.abs().max()) for a, e in zip(actual, expected))


def benchmark(
    name: str, methods: list[str], device: str, dtype: torch.dtype, rounds: int, batch: int = 1
) -> Iterator[MethodTiming]:
    """Time methods on a case, forward and forward+backward.

    Ratios are over the time of ``triton``, or over that of ``composed`` where Triton does not run.
    """
    case = CASES[name]
    layer, x = layer_of(case).to(device), tokens_of(case, batch=batch).to(device)
    elements = x.numel() * (2 if case.family == 'vim' else 1)  # (B, D, L) of a scan
    notes = {method: unavailable(method, device) or '' for method in methods}
    running = [method for method in methods if not notes[method]]
    parities = {method: parity(method, case, device, dtype) for method in running}
    shape = str(tuple(x.shape)).replace(' ', '')
    for direction in DIRECTIONS:
        timings = [
            MethodTiming(name, shape, direction, method, elements, parity=parities.get(method), note=notes[method])
            for method in methods
        ]
        calls = {
            method: functools.partial(call, method, case, layer, x, dtype, direction != 'forward') for method in running
        }
        base = next((method for method in ('triton', 'composed') if method in running), None)
        measure_methods(timings, calls, rounds, device, base, PARITY[dtype])
        yield from timings
