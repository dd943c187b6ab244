"""The selective scan on CUDA through Triton, without nvcc.

``host.py`` lays out, launches and adds up; the kernels are imported at the first launch, since they need Triton.
"""

import importlib
import os

import torch
from torch import Tensor

from mmbackbones.ops.selective_scan.backend import ScanArguments
from mmbackbones.ops.selective_scan.triton.host import Problem, channels_last, saved_shape, sizes, states_last

__all__ = ['DEVICES', 'FLOAT64', 'INDEXED', 'available', 'backward', 'forward', 'saved_shape']

DEVICES = ('cuda', 'cpu') if os.environ.get('TRITON_INTERPRET') == '1' else ('cuda',)
FLOAT64 = False
INDEXED = True


def available() -> str | None:
    try:
        importlib.import_module('triton')
    except ImportError:
        return 'triton is not installed; pip install triton'
    if DEVICES == ('cuda',) and not torch.cuda.is_available():
        return 'triton needs a CUDA device, and PyTorch sees none'
    return None


def forward(scan: ScanArguments, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    u, (batch, dim, _), state, problem = scan.u, scan.u.shape, scan.A.shape[1], _problem(scan)
    out = u.new_empty(problem.shape)
    last_state = u.new_empty(batch, state, dim, dtype=torch.float32)
    saved = u.new_empty(saved_shape(batch, dim, problem.length, state) if save else (0,), dtype=torch.float32)
    problem.forward(out, last_state, saved if save else None)
    return _returned(out, scan.order), last_state.transpose(1, 2).contiguous(), saved


def backward(scan: ScanArguments, dout: Tensor, dlast_state: Tensor | None, saved: Tensor) -> tuple[Tensor, ...]:
    problem = _problem(scan)
    dlast_state = None if dlast_state is None else dlast_state.float().transpose(1, 2).contiguous()
    du, ddelta, dz = (None if x is None else x.new_empty(problem.shape) for x in (scan.u, scan.delta, scan.z))
    dA, dB, dC, dD, dbias = problem.backward(channels_last(dout), dlast_state, saved, du, ddelta, dz)

    def state_last(x, like):
        return x.transpose(2, 3).to(like.dtype).contiguous()  # [B, G, L, N] -> [B, G, N, L]

    def optional(x, like):
        return scan.u.new_empty(0) if like is None else x.to(like.dtype)

    return (
        _returned(du, scan.order),
        _returned(ddelta, scan.order),
        dA.t().to(scan.A.dtype).contiguous(),
        state_last(dB, scan.B),
        state_last(dC, scan.C),
        optional(dD, scan.D),
        scan.u.new_empty(0) if scan.z is None else _returned(dz, scan.order),
        optional(dbias, scan.delta_bias),
    )


def _returned(x: Tensor, order: Tensor | None) -> Tensor:
    """[B, L, D] -> [B, D, L], contiguous without an order, with one a view."""
    x = x.transpose(1, 2)
    return x.contiguous() if order is None else x


def _problem(scan: ScanArguments) -> Problem:
    u, delta, z = (None if x is None else channels_last(x) for x in (scan.u, scan.delta, scan.z))
    B, C = (states_last(x.transpose(2, 3), sizes(scan.A.shape[1])['NB']) for x in (scan.B, scan.C))
    D, delta_bias = (None if x is None else x.float().contiguous() for x in (scan.D, scan.delta_bias))
    return Problem(
        u,
        delta,
        scan.A.float().t().contiguous(),
        B,
        C,
        D,
        z,
        delta_bias,
        scan.delta_softplus,
        scan.reverse,
        order=None if scan.order is None else scan.order.contiguous(),
    )
