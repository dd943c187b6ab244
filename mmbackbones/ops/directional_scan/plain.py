"""Directional scans composed of torch operations and the selective scan: the specification, for every backend."""

import torch.nn.functional as F
from torch import Tensor

from mmbackbones.ops.scan_orders import to_map, to_sequence
from mmbackbones.ops.selective_scan import selective_scan


def plain(x, proj_weight, dt_weight, dt_bias, A, D, z, conv_weight, conv_bias, orders, reverse, out_dtype, backend):
    rank, state = dt_weight.shape[2], A.shape[2]
    columns, total = x.transpose(1, 2), 0  # [B, L, D] -> [B, D, L]
    for k, (order, backwards) in enumerate(zip(orders, reverse)):
        u = columns if order is None else to_sequence(columns, order)  # -> [B, D, S]
        if conv_weight is not None:
            u = F.silu(one_sided_conv(u, conv_weight[k], None if conv_bias is None else conv_bias[k], backwards))
        projected = proj_weight[k].to(u.dtype) @ u  # -> [B, R + 2 N, S]
        if order is not None:
            projected = projected.masked_fill(order.order < 0, 0)  # the convolution reaches into padding
        low_rank, B, C = projected.split([rank, state, state], dim=1)
        delta = dt_weight[k].to(low_rank.dtype) @ low_rank
        y = selective_scan(
            u.to(out_dtype),
            delta,
            A[k],
            B,
            C,
            None if D is None else D[k],
            delta_bias=dt_bias[k],
            delta_softplus=True,
            reverse=backwards,
            backend=backend,
        )
        total = total + (y if order is None else to_map(y, order))
    y = total.transpose(1, 2)
    return y if z is None else (y * F.silu(z)).to(out_dtype)


def one_sided_conv(u: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool) -> Tensor:
    """Depthwise convolution of [B, D, S], causal, or under ``reverse`` its mirror image; weight [D, W]."""
    reach = weight.shape[1] - 1
    weight = (weight.flip(1) if reverse else weight)[:, None].to(u.dtype)
    bias = None if bias is None else bias.to(u.dtype)
    y = F.conv1d(u, weight, bias, padding=reach, groups=len(weight))
    return y[..., reach:] if reverse else y[..., : u.shape[2]]
