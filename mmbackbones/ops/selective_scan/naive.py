"""The selective scan, one step at a time: the specification of the other backends, on any device, in float64 too."""

import torch
from torch import Tensor

from mmbackbones.ops.selective_scan.backend import ScanArguments
from mmbackbones.ops.selective_scan.frame import frame_backward, frame_forward

DEVICES = None
FLOAT64 = True
INDEXED = False


def recurrence(step: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """y (B, D, L) and last state (B, D, N) for step and x = step * u (B, D, L); differentiable by autograd."""
    B, C = (m.repeat_interleave(x.shape[1] // m.shape[1], dim=1) for m in (B, C))  # [B, G, N, L] -> [B, D, N, L]
    # Taken apart at once: the gradient of an indexed step would be as large as the whole sequence.
    step, x, B, C = (m.unbind(-1) for m in (step[:, :, None], x[:, :, None], B, C))
    state, y = torch.zeros_like(A).expand(len(step[0]), -1, -1), [None] * len(x)
    for t in _order(len(x), reverse):
        state = torch.exp(step[t] * A) * state + x[t] * B[t]
        y[t] = (state * C[t]).sum(-1)
    return torch.stack(y, dim=-1), state


def recurrence_backward(
    dy: Tensor, dlast_state: Tensor | None, step: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor, reverse: bool
) -> tuple[Tensor, ...]:
    """y again, and the gradients of step, x, A, B and C."""
    groups, (batch, dim, length) = B.shape[1], x.shape
    B, C = (m.repeat_interleave(dim // groups, dim=1) for m in (B, C))
    y, dstep, dx = (torch.empty_like(x) for _ in range(3))
    dA, dB, dC = torch.zeros_like(A), torch.empty_like(B), torch.empty_like(C)

    states, state = [None] * length, A.new_zeros(batch, dim, A.shape[1])
    for t in _order(length, reverse):
        states[t] = state
        state = torch.exp(step[:, :, t, None] * A) * state + x[:, :, t, None] * B[..., t]
        y[..., t] = (state * C[..., t]).sum(-1)
        dC[..., t] = dy[:, :, t, None] * state
    dstate = torch.zeros_like(state) if dlast_state is None else dlast_state
    for t in _order(length, not reverse):
        decay = torch.exp(step[:, :, t, None] * A)
        dstate = dstate + dy[:, :, t, None] * C[..., t]
        dx[..., t] = (dstate * B[..., t]).sum(-1)
        dB[..., t] = dstate * x[:, :, t, None]
        dstate = dstate * decay
        dstep[..., t] = (dstate * states[t] * A).sum(-1)
        dA += (dstate * states[t] * step[:, :, t, None]).sum(0)
    return y, dstep, dx, dA, *(m.unflatten(1, (groups, -1)).sum(2) for m in (dB, dC))


def _order(length: int, reverse: bool) -> range:
    return range(length - 1, -1, -1) if reverse else range(length)


def available() -> str | None:
    return None


def saved_shape(batch: int, dim: int, length: int, state: int) -> tuple:
    return (0,)


def forward(scan: ScanArguments, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    out, last_state = frame_forward(recurrence, scan)
    return out, last_state, last_state.new_empty(0, dtype=torch.float32)


def backward(scan: ScanArguments, dout: Tensor, dlast_state: Tensor | None, saved: Tensor) -> tuple[Tensor, ...]:
    return frame_backward(recurrence_backward, scan, dout, dlast_state)
