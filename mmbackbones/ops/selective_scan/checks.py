"""What a selective scan refuses: tensors of a wrong kind, shape or device, each named."""

import torch
from torch import Tensor

from mmbackbones.errors import InputError

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def refuse_tensor(tensors: dict[str, Tensor | None]) -> None:
    """Say which tensor is none that a scan takes, and why."""
    device = getattr(tensors['u'], 'device', None)
    for name, x in tensors.items():
        if x is None and name in ('D', 'z', 'delta_bias'):
            continue
        if not isinstance(x, Tensor):
            raise InputError(f'selective_scan: {name} is {type(x).__name__}, expected a tensor')
        if x.layout != torch.strided:
            raise InputError(f'selective_scan: {name} {tuple(x.shape)} is {x.layout}, expected a dense tensor')
        if x.is_complex():
            raise InputError(f'selective_scan: {name} {tuple(x.shape)} is complex, expected real numbers')
        if x.dtype not in DTYPES:
            raise InputError(f'selective_scan: {name} {tuple(x.shape)} is {x.dtype}, expected a float of 16 to 64 bits')
        if x.device != device:
            raise InputError(f'selective_scan: {name} {tuple(x.shape)} is on {x.device}, expected {device} as u')


def check_shapes(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
) -> None:
    shape = u.shape
    if len(shape) != 3:
        raise InputError(f'selective_scan: u has shape {tuple(shape)}, expected (B, D, L)')
    batch, dim, length = shape
    if A.dim() != 2 or A.shape[0] != dim or A.shape[1] == 0:
        raise InputError(f'selective_scan: A has shape {tuple(A.shape)}, expected (D, N) = ({dim}, N >= 1)')
    for name, x, expected in (
        ('delta', delta, (batch, dim, length)),
        ('z', z, (batch, dim, length)),
        ('D', D, (dim,)),
        ('delta_bias', delta_bias, (dim,)),
    ):
        if x is not None and x.shape != expected:
            raise InputError(f'selective_scan: {name} has shape {tuple(x.shape)}, expected {expected} after u')
    state, maps = A.shape[1], B.shape
    if len(maps) not in (3, 4) or maps[0] != batch or maps[-2] != state or maps[-1] != length:
        raise InputError(
            f'selective_scan: B has shape {tuple(maps)}, expected (B, N, L) = {(batch, state, length)} or (B, G, N, L)'
        )
    if len(maps) == 4 and (maps[1] == 0 or dim % maps[1]):
        raise InputError(f'selective_scan: B {tuple(maps)} has {maps[1]} groups, expected a divisor of D = {dim}')
    if C.shape != maps:
        raise InputError(f'selective_scan: C has shape {tuple(C.shape)}, expected {tuple(maps)} as B')


def check_order(order: object, u: Tensor) -> None:
    if not isinstance(order, Tensor):
        raise InputError(f'selective_scan: order is {type(order).__name__}, expected a tensor')
    if order.dtype != torch.int64 or order.layout != torch.strided:
        raise InputError(f'selective_scan: order {tuple(order.shape)} is {order.dtype}, expected a dense torch.int64')
    if order.device != u.device:
        raise InputError(f'selective_scan: order {tuple(order.shape)} is on {order.device}, expected {u.device} as u')
    if order.dim() != 1 or order.shape[0] < u.shape[2]:
        raise InputError(
            f'selective_scan: order has shape {tuple(order.shape)}, expected (S,) with S >= L = {u.shape[2]} slots'
        )


def check_positions(order: Tensor, length: int) -> None:
    """Refuse an order on the CPU in which a position has no slot or two, or a slot is no position."""
    positions, _ = order[order != -1].sort()
    if not torch.equal(positions, torch.arange(length)):
        raise bad_order(length, len(order))


def bad_order(length: int, slots: int) -> InputError:
    return InputError(
        f'selective_scan: order of {slots} slots does not have every position from 0 to {length - 1} once and else -1'
    )
