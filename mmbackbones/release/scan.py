"""The selective scan as plain operations whose number does not depend on the image: what an export contains.

The algorithm is that of the backend ``chunk`` with two changes. A chunk has a fixed number of steps, and the states at
the boundaries of the chunks are carried along by doubling (Hillis and Steele, 1986) in place of one step per chunk.
So one graph serves every length, and ONNX needs no loop.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mmbackbones.ops.selective_scan.backend import ScanArguments
from mmbackbones.ops.selective_scan.frame import frame_forward
from mmbackbones.ops.selective_scan.op import COUNT, GATHERED, scan_op

STEPS = 8  # in a chunk
DOUBLINGS = 18  # so many boundaries, 2**18 chunks of 8 steps: an image of 5,000 x 6,500 pixels at stride 4


def decomposed_scan(*inputs) -> tuple[Tensor, Tensor, Tensor]:
    """The operator ``mmbackbones::selective_scan`` as torch's own operators."""
    scan, length = ScanArguments(*inputs[:COUNT]), inputs[0].shape[2]
    order = scan.order
    if order is not None:
        given = {name: x for name in GATHERED if (x := getattr(scan, name)) is not None}
        scan = scan._replace(order=None, **{name: _in_order(x, order) for name, x in given.items()})
    out, last_state = frame_forward(_recurrence, scan)
    if order is not None:
        slots = torch.arange(order.shape[0], device=order.device)
        # Padding slots, which are -1, all land in one extra cell that is cut off again.
        inverse = slots.new_zeros(length + 1).scatter(0, order + 1, slots)[1:]
        out = out.index_select(2, inverse).transpose(1, 2).contiguous().transpose(1, 2)
    return out, last_state, last_state.new_empty(0, dtype=torch.float32)


def _in_order(x: Tensor, order: Tensor) -> Tensor:
    """[..., L] -> [..., S], zero in the padding slots."""
    return x.index_select(x.dim() - 1, order.clamp(min=0)).masked_fill(order < 0, 0)


class PlainScans(TorchFunctionMode):
    """Within it, a trace of the operator holds torch's own operators."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return decomposed_scan(*args) if func is scan_op else func(*args, **(kwargs or {}))


def _recurrence(step: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """See :func:`mmbackbones.ops.selective_scan.frame.frame_forward`."""
    length, groups = step.shape[2], B.shape[1]
    chunks = (length + STEPS - 1) // STEPS
    if not isinstance(chunks, int):
        chunks += 1  # one alone would be another graph: a side of 1 broadcasts
    padding = chunks * STEPS - length

    def split(m: Tensor) -> list[Tensor]:
        """[..., L] -> STEPS x [..., chunks]; the tail is padded with zeros: a step of 0 changes nothing."""
        m = F.pad(m.flip(-1) if reverse else m, (0, padding))
        return list(m.unflatten(-1, (chunks, STEPS)).unbind(-1))

    # [B, D, L] -> STEPS x [B, G, E, 1, chunks]; [B, G, N, L] -> STEPS x [B, G, 1, N, chunks]
    steps, inputs = ([m.unflatten(1, (groups, -1)).unsqueeze(3) for m in split(each)] for each in (step, x))
    Bs, Cs = ([m.unsqueeze(2) for m in split(each)] for each in (B, C))
    A = A.unflatten(0, (groups, -1))[..., None]  # [D, N] -> [G, E, N, 1]

    decays, added = [torch.exp(m * A) for m in steps], [m * b for m, b in zip(inputs, Bs)]
    decay, carry = decays[0], added[0]
    for a, m in zip(decays[1:], added[1:]):
        decay, carry = decay * a, a * carry + m
    # A fixed image has a known number of chunks.
    doublings = (chunks - 1).bit_length() if isinstance(chunks, int) else DOUBLINGS
    for k in range(doublings):
        # What the chunks up to 2**k before this one add; a chunk before the first adds nothing.
        carry = carry + decay * _shifted(carry, 2**k, chunks)
        decay = decay * _shifted(decay, 2**k, chunks)
    states, y = _shifted(carry, 1, chunks), []
    for a, m, c in zip(decays, added, Cs):
        states = a * states + m
        y.append((states * c).sum(3))  # -> [B, G, E, chunks]
    out = torch.stack(y, dim=-1).flatten(-2)[..., :length].flatten(1, 2)
    return out.flip(-1) if reverse else out, carry[..., -1].flatten(1, 2)


def _shifted(x: Tensor, count: int, chunks: int) -> Tensor:
    """[..., chunks] moved to the right by ``count``; zeros come in."""
    return F.pad(x, (count, 0))[..., :chunks]
