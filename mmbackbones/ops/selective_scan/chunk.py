"""The selective scan in plain PyTorch, linear in time and memory: where nothing can be compiled.

The steps inside a chunk are taken for all chunks at once, first from zero, to learn what a chunk adds to the state;
then the states at the chunk boundaries are carried along; then the steps are taken again from the true states: 2 T +
L / T operations in a row in place of L. Decays are multiplied, never divided, so nothing grows beyond the true state.
Channels are taken in blocks whose (B, D, L, N) products fit the cache, so that memory doesn't grow with D.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbackbones.ops.selective_scan.backend import ScanArguments
from mmbackbones.ops.selective_scan.frame import frame_backward, frame_forward

DEVICES = None
FLOAT64 = True
INDEXED = False

BLOCK_ELEMENTS = 1 << 20  # of (B, D, L, N) at a time on the CPU: 4 MB per product
BLOCK_ELEMENTS_ELSEWHERE = 1 << 26  # an accelerator wants few, large operations


def available() -> str | None:
    return None


def saved_shape(batch: int, dim: int, length: int, state: int) -> tuple:
    return (0,)


def forward(scan: ScanArguments, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    out, last_state = frame_forward(recurrence, scan)
    return out, last_state.contiguous(), last_state.new_empty(0, dtype=torch.float32)


def backward(scan: ScanArguments, dout: Tensor, dlast_state: Tensor | None, saved: Tensor) -> tuple[Tensor, ...]:
    return frame_backward(recurrence_backward, scan, dout, dlast_state)


def recurrence(step: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    chunks = Chunks(x.shape[-1], reverse)
    B, C = chunks.split_states(B), chunks.split_states(C)
    y, last_state = [], []
    for step_block, x_block, A_block in zip(*_blocks(B, step, x, A)):
        *_, y_block, last = _replay(chunks.split(step_block), chunks.split(x_block), A_block, B, C)
        y.append(chunks.join(y_block))
        last_state.append(last)
    # G x [B, E, L] blocks -> [B, D, L]
    return torch.cat(y, dim=2).flatten(1, 2), torch.cat(last_state, dim=2).flatten(1, 2)


def recurrence_backward(
    dy: Tensor, dlast_state: Tensor | None, step: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor, reverse: bool
) -> tuple[Tensor, ...]:
    chunks = Chunks(x.shape[-1], reverse)
    B, C = chunks.split_states(B), chunks.split_states(C)
    dB, dC = ([torch.zeros_like(m) for m in split] for split in (B, C))
    y: list[Tensor] = []
    dstep: list[Tensor] = []
    dx: list[Tensor] = []
    dA = []
    if dlast_state is None:
        dlast_state = A.new_zeros(len(x), *A.shape)
    for dy_block, dlast_block, step_block, x_block, A_block in zip(*_blocks(B, dy, dlast_state, step, x, A)):
        dy_block, step_block, x_block = (chunks.split(m) for m in (dy_block, step_block, x_block))
        decays, decay, states, y_block, _ = _replay(step_block, x_block, A_block, B, C)

        # What a chunk adds to the gradient of the state before it, then the true gradients at the boundaries.
        added = torch.zeros_like(decay)
        for a, c, g in zip(reversed(decays), reversed(C), reversed(dy_block)):
            added = a * (added + c * g)
        carry, boundaries = dlast_block, []
        for a, g in zip(reversed(decay.unbind(-2)), reversed(added.unbind(-2))):
            boundaries.append(carry)
            carry = a * carry + g
        dstate = torch.stack(boundaries[::-1], dim=-2)

        dstep_block, dx_block, dA_block = [None] * len(decays), [None] * len(decays), torch.zeros_like(A_block)
        for t in reversed(range(len(decays))):
            dstate = dstate + C[t] * dy_block[t]
            dx_block[t] = (dstate * B[t]).sum(-1)
            dB[t] += (dstate * x_block[t]).sum(2, keepdim=True)
            dC[t] += (states[t + 1] * dy_block[t]).sum(2, keepdim=True)
            dstate = dstate * decays[t]
            ddecay = dstate * states[t]
            dstep_block[t] = (ddecay * A_block).sum(-1)
            dA_block += (ddecay * step_block[t]).sum((0, 3)).unsqueeze(2)
        for parts, part in ((y, y_block), (dstep, dstep_block), (dx, dx_block)):
            parts.append(chunks.join(part))
        dA.append(dA_block)
    y, dstep, dx = (torch.cat(parts, dim=2).flatten(1, 2) for parts in (y, dstep, dx))
    return y, dstep, dx, torch.cat(dA, dim=1).flatten(0, 2), chunks.join_states(dB), chunks.join_states(dC)


class Chunks:
    """A sequence in scan order, cut into chunks: T = steps in a chunk x positions (chunk)."""

    def __init__(self, length: int, reverse: bool):
        self.length, self.reverse = length, reverse
        self.steps = max(1, math.isqrt(length // 2))
        self.chunks = -(-length // self.steps)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """[..., L] -> T x [..., chunks, 1]; the tail is padded with zeros: a step of 0 changes nothing."""
        x = F.pad(x.flip(-1) if self.reverse else x, (0, self.chunks * self.steps - self.length))
        return x.unflatten(-1, (self.chunks, self.steps)).movedim(-1, 0).unsqueeze(-1).unbind(0)

    def split_states(self, x: Tensor) -> list[Tensor]:
        """[B, G, N, L] -> T x [B, G, 1, chunks, N]"""
        return [m.squeeze(-1).movedim(2, -1).unsqueeze(2).contiguous() for m in self.split(x)]

    def join(self, x: list[Tensor]) -> Tensor:
        """T x [..., chunks] -> [..., L]"""
        joined = torch.stack(x, dim=-1).flatten(-2)[..., : self.length]
        return joined.flip(-1) if self.reverse else joined

    def join_states(self, x: list[Tensor]) -> Tensor:
        """T x [B, G, 1, chunks, N] -> [B, G, N, L]"""
        return self.join([m.squeeze(2).movedim(-1, 2) for m in x])


def _blocks(B: list[Tensor], *tensors: Tensor) -> list[list[Tensor]]:
    """Blocks of E channels of every group: [B, D, ...] -> [B, G, E, ...], A: [D, N] -> [G, E, 1, N]."""
    batch, groups, _, chunks, state = B[0].shape
    width = BLOCK_ELEMENTS if B[0].device.type == 'cpu' else BLOCK_ELEMENTS_ELSEWHERE
    width = max(1, width // (batch * groups * len(B) * chunks * state))
    return [
        list(
            (m.unflatten(0, (groups, -1)).unsqueeze(2) if m.dim() == 2 else m.unflatten(1, (groups, -1))).split(
                width, dim=1 if m.dim() == 2 else 2
            )
        )
        for m in tensors
    ]


def _replay(step: tuple[Tensor, ...], x: tuple[Tensor, ...], A: Tensor, B: list[Tensor], C: list[Tensor]) -> tuple:
    """Decay of every step and of every chunk, state before every step and after the last, y, last state."""
    decays, inputs = [torch.exp(m * A) for m in step], [m * b for m, b in zip(x, B)]
    added, decay = inputs[0], decays[0]
    for a, m in zip(decays[1:], inputs[1:]):
        added, decay = a * added + m, decay * a
    carry, boundaries = torch.zeros_like(added[..., 0, :]), []
    for a, m in zip(decay.unbind(-2), added.unbind(-2)):
        boundaries.append(carry)
        carry = a * carry + m
    states = [torch.stack(boundaries, dim=-2)]
    y = []
    for a, m, c in zip(decays, inputs, C):
        states.append(a * states[-1] + m)
        y.append((states[-1] * c).sum(-1))
    return decays, decay, states, y, carry
