"""What surrounds the recurrence in PyTorch, and its gradient: dtypes, dt, skip connection and gate."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbackbones.ops.selective_scan.backend import ScanArguments


def upcast(*tensors: Tensor | None) -> list[Tensor | None]:
    """All in the dtype of the state: float64 if a tensor is, else float32. None stays None."""
    double = any(x is not None and x.dtype == torch.float64 for x in tensors)
    return [x if x is None else x.to(torch.float64 if double else torch.float32) for x in tensors]


def dt_of(delta: Tensor, delta_bias: Tensor | None, delta_softplus: bool) -> Tensor:
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    return F.softplus(delta) if delta_softplus else delta


def frame_forward(recurrence: Callable, scan: ScanArguments) -> tuple[Tensor, Tensor]:
    """``recurrence(step, step * u, A, B, C, reverse) -> (y, last_state)`` in its frame."""
    u, delta, A, B, C, D, z, delta_bias = upcast(*scan.tensors)
    step = dt_of(delta, delta_bias, scan.delta_softplus)
    y, last_state = recurrence(step, step * u, A, B, C, scan.reverse)
    if D is not None:
        y = y + D[:, None] * u
    if z is not None:
        y = y * F.silu(z)
    return y.to(scan.u.dtype), last_state


def frame_backward(
    recurrence_backward: Callable, scan: ScanArguments, dout: Tensor, dlast_state: Tensor | None
) -> tuple[Tensor, ...]:
    """Gradients of the eight tensors, in their dtypes, from
    ``recurrence_backward(dy, dlast_state, step, x, A, B, C, reverse) -> (y, dstep, dx, dA, dB, dC)``."""
    u, delta, A, B, C, D, z, delta_bias, dout, dlast_state = upcast(*scan.tensors, dout, dlast_state)
    step = dt_of(delta, delta_bias, scan.delta_softplus)
    dy = dout
    if z is not None:
        gate = torch.sigmoid(z)
        dy = dout * z * gate
    y, dstep, dx, dA, dB, dC = recurrence_backward(dy, dlast_state, step, step * u, A, B, C, scan.reverse)
    du, dstep = dx * step, dstep + dx * u
    dD = dz = ddelta_bias = None
    if D is not None:
        y, du, dD = y + D[:, None] * u, du + D[:, None] * dy, (dy * u).sum((0, 2))
    if z is not None:
        dz = dout * y * gate * (1 + z * (1 - gate))
    # softplus'(x) = sigmoid(x) = 1 - exp(-softplus(x))
    ddelta = dstep * -torch.expm1(-step) if scan.delta_softplus else dstep
    if delta_bias is not None:
        ddelta_bias = ddelta.sum((0, 2))
    return tuple(
        scan.u.new_empty(0) if x is None else g.to(x.dtype).contiguous()
        for x, g in zip(scan.tensors, (du, ddelta, dA, dB, dC, dD, dz, ddelta_bias))
    )
