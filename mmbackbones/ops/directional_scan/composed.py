"""Directional scans composed of torch operations and the selective scan: for every backend, and fast on a CPU.

Sequences lie with tokens innermost, (B, D, S), as :func:`project_tokens` leaves them: products, convolution and scan
read them without a transposed copy. Neighbouring directions over different orders, such as VMamba's rows and columns,
are one product and one scan of as many groups. A reversed direction is an index order, not a flipped copy.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbackbones.ops.directional_scan.arguments import DirectionalArguments, Weights
from mmbackbones.ops.scan_orders import ScanOrder, merge_sequences, to_sequences
from mmbackbones.ops.selective_scan.op import scan_op


def project_tokens(x: Tensor, weight: Tensor, bias: Tensor | None, parts: int) -> tuple[Tensor, ...]:
    """A linear layer of tokens (B, L, C) -> equal parts of (B, L, E), views of memory with tokens innermost."""
    x, shape = x.flatten(0, 1).T, x.shape[:2]  # [B, L, C] -> [C, B*L]
    y = weight @ x if bias is None else torch.addmm(bias[:, None], weight, x)
    # Cut before it is turned, so that gradients are joined as they lie. [E, B*L] -> parts x [B, L, E / parts]
    return tuple(part.permute(1, 2, 0) for part in y.unflatten(1, shape).chunk(parts))


def forward(scan: DirectionalArguments, out_dtype: torch.dtype, backend: str, save: bool) -> Tensor:
    """See :func:`directional_scan`, which has checked the arguments and chosen the selective scan's backend.

    ``save``: a gradient is wanted.
    """
    x = scan.x.transpose(1, 2)  # [B, L, D] -> [B, D, L]
    # Where tokens lie in one order, each scan applies the gate itself.
    inner_z = scan.z if all(order is None for order in scan.orders) else None
    options = dict(
        out_dtype=out_dtype, z=None if inner_z is None else inner_z.transpose(1, 2), backend=backend, save=save
    )
    count, total, y, projections = _neighbours(scan), None, None, None
    for first in range(0, len(scan.A), count):
        k, orders = slice(first, first + count), scan.orders[first : first + count]
        if first == 0 or not _is_same(orders[0], scan.orders[first - count]):
            if y is not None:
                total, y = _merged(total, y, scan.orders[first - count : first]), None
            u = x[:, None] if count == 1 and orders[0] is None else to_sequences(x, orders)  # [B, k, D, S]
            wide = u.to(out_dtype) if scan.conv_weight is None else u  # each convolution makes its own
            projections = _projections(scan, k, u) if _share_projections(scan) else None
        y = _plus(y, _scan_group(scan, k, u, wide, projections, **options), in_place=not save)
    y = _merged(total, y, scan.orders[-count:]).transpose(1, 2)  # [B, D, L] -> [B, L, D]
    return y if scan.z is None or inner_z is not None else (y * F.silu(scan.z)).to(out_dtype)


def _scan_group(
    scan: DirectionalArguments,
    k: slice,
    u: Tensor,
    wide: Tensor,
    projections: tuple[Tensor, Tensor, Tensor] | None,
    *,
    out_dtype: torch.dtype,
    z: Tensor | None,
    backend: str,
    save: bool,
) -> Tensor:
    """Neighbouring directions of u [B, k, D, S] -> the same shape. What it needs in between is free for the next."""
    if scan.conv_weight is not None:
        u = F.silu(_convolved(scan, scan.conv_weight[k.start], k.start, u.squeeze(1)))[:, None]
        wide = u.to(out_dtype)
    delta, B, C = projections or _projections(scan, k, u)
    y, _, _ = scan_op(
        wide.flatten(1, 2),
        delta.flatten(1, 2),
        _channels(scan.A, k),
        B,
        C,
        None if scan.D is None else _channels(scan.D, k),
        z,
        _channels(scan.dt_bias, k),
        True,  # softplus
        scan.reverse[k.start],
        None,  # no order: the sequence lies in its own
        save,
        backend,
    )
    return y.view_as(wide)


def _neighbours(scan: DirectionalArguments) -> int:
    """How many directions next to each other are one scan of as many groups."""
    directions, orders = range(len(scan.orders)), scan.orders
    if scan.conv_weight is not None:
        return 1
    count = next((k for k in directions[1:] if _is_same(orders[k], orders[0])), len(directions))
    slots = [scan.x.shape[1] if order is None else order.order.shape[0] for order in orders]
    alike = all(
        _is_same(orders[k], orders[k % count]) and scan.reverse[k] == scan.reverse[k - k % count] for k in directions
    )
    return count if alike and all(each == slots[0] for each in slots) and len(directions) % count == 0 else 1


def _is_same(one: ScanOrder | None, other: ScanOrder | None) -> bool:
    return one is other if one is None or other is None else one.order is other.order


def _convolved(scan: DirectionalArguments, weight: Tensor, k: int, x: Tensor) -> Tensor:
    """Depthwise convolution of [B, D, S] for direction k, before its SiLU."""
    bias = None if scan.conv_bias is None else scan.conv_bias[k]
    if weight.dtype != x.dtype:
        weight = weight.to(x.dtype)
    if bias is not None and bias.dtype != x.dtype:
        bias = bias.to(x.dtype)
    return one_sided_conv(x, weight, bias, scan.reverse[k])


def one_sided_conv(x: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool = False) -> Tensor:
    """Depthwise convolution of [B, D, S], causal, or under ``reverse`` its mirror image; weight [D, W]."""
    reach = weight.shape[1] - 1
    weight = (weight.flip(1) if reverse else weight)[:, None]
    y = F.conv1d(x, weight, bias, padding=reach, groups=len(weight))
    return y[..., reach:] if reverse else y[..., : x.shape[2]]


def _share_projections(scan: DirectionalArguments) -> bool:
    """Whether all directions have the same projections, and so over one sequence the same step, B and C."""
    return scan.conv_weight is None and all(
        not isinstance(weights, Tensor) and all(weight is weights[0] for weight in weights)
        for weights in (scan.proj_weight, scan.dt_weight)
    )


def _projections(scan: DirectionalArguments, k: slice, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Step before its bias [B, k, D, S], B and C [B, k, N, S] of u [B, k, D, S]."""
    proj_weight, dt_weight = _of(scan.proj_weight, k), _of(scan.dt_weight, k)
    state = scan.A[0].shape[1]
    projected = _product(proj_weight, u)  # -> [B, k, R + 2 N, S]
    if scan.conv_weight is not None and scan.orders[k.start] is not None:
        projected = projected.masked_fill(scan.orders[k.start].order < 0, 0)  # the convolution reaches into padding
    low_rank, B, C = projected.split([dt_weight.shape[-1], state, state], dim=2)
    return _product(dt_weight, low_rank), B, C


def _of(weights: Weights, k: slice) -> Tensor:
    """Those of neighbouring directions, stacked; of a single one as they are."""
    if k.stop - k.start == 1:
        return weights[k.start]
    return weights[k] if isinstance(weights, Tensor) else torch.stack(tuple(weights[k]))


def _channels(weights: Weights, k: slice) -> Tensor:
    """Those of the channels of neighbouring directions, one direction after the other: [k * D, ...]."""
    return _of(weights, k) if k.stop - k.start == 1 else _of(weights, k).flatten(0, 1)


def _product(weight: Tensor, u: Tensor) -> Tensor:
    """[k, E, D], or [E, D] of a single direction, times [B, k, D, S], in the dtype of u."""
    if weight.dtype != u.dtype:
        weight = weight.to(u.dtype)
    if weight.dim() == 3:
        return weight @ u
    return torch.bmm(weight.expand(u.shape[0], -1, -1), u.squeeze(1)).unsqueeze(1)


def _merged(total: Tensor | None, y: Tensor, orders: Sequence[ScanOrder | None]) -> Tensor:
    """``total`` [B, D, L] and the scans y [B, k, D, S], brought back from their orders."""
    return _plus(total, y[:, 0] if len(orders) == 1 and orders[0] is None else merge_sequences(y, orders))


def _plus(total: Tensor | None, part: Tensor, in_place: bool = False) -> Tensor:
    """Not a line of its caller, where a name would keep ``part`` alive past the sum."""
    if total is None:
        return part
    return total.add_(part) if in_place else total + part
