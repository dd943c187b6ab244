"""Test-time training layers: a small model learns each image's keys and values, then reads the queries.

Source: "ViT^3: Unlocking Test-Time Training in Vision", CVPR 2026, https://arxiv.org/abs/2512.01643. The layer holds a
model f with weights W. For each image it takes one gradient step from W on ``-scale * mean over tokens of <f(k), v>``,
with learning rate 1, and returns f(q) with the new weights. The gradients are written out below, so that a step works
without autograd, and with autograd the outer gradient runs through it. All tokens enter the sums, whatever their order;
the cost grows linearly with their number.

Both steps are computed in float32 (float64 stays), whatever autocast says: their sums run over all tokens of a map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

KERNEL = 3
SCALE = 1 / 3  # of both losses, whatever the width


def learn_gated(q: Tensor, k: Tensor, v: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """``f(q) = (q w1') * silu(q w2')`` with weights after one step on ``f(k) = (k w1) * silu(k w2)`` and v.

    Args:
        q, k, v (Tensor): [B, heads, N, d], any floating dtype; an image's heads learn by themselves.
        w1, w2 (Tensor): [1, heads, d, d], where the step starts.

    Returns:
        Tensor: [B, heads, N, d], float32 (float64 for float64).
    """
    with _full_precision(q):
        q, k, v, start = _widen(q, k, v, torch.cat((w1, w2), dim=-1))
        linear, gate = (k @ start).chunk(2, dim=-1)
        open_ = gate.sigmoid()
        silu = gate * open_
        slope = open_ * (1 + gate - silu)  # of silu at the gate
        error = torch.cat((v * silu, v * linear * slope), dim=-1)
        gradient = k.transpose(-2, -1) @ (error * (-SCALE / k.shape[-2]))  # [B, heads, d, 2d]
        learned = start - _clip(gradient, dim=-2)
        linear, gate = (q @ learned).chunk(2, dim=-1)
        return linear * F.silu(gate)


def learn_depthwise(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """A depthwise 3x3 convolution of q, with a kernel of each image after one step on ``conv(k)`` and v.

    Args:
        q, k, v (Tensor): maps [B, d, H, W], any floating dtype; zeros surround them.
        w (Tensor): [d, 1, 3, 3], where the step starts.

    Returns:
        Tensor: [B, d, H, W], float32 (float64 for float64).
    """
    with _full_precision(q):
        q, k, v, start = _widen(q, k, v, w)
        batch, dim, height, width = q.shape
        groups = batch * dim  # every image has its own kernels

        def side_by_side(x: Tensor) -> Tensor:
            return x.reshape(1, groups, height, width)

        gradient = _kernel_gradient(side_by_side(k), side_by_side(v * (-SCALE / (height * width))))
        learned = start.repeat(batch, 1, 1, 1) - _clip(gradient, dim=(-2, -1))
        return F.conv2d(side_by_side(q), learned, padding=KERNEL // 2, groups=groups).view_as(q)


def _kernel_gradient(x: Tensor, error: Tensor) -> Tensor:
    """Of the kernels of a depthwise convolution of x, given that of its output, both [1, G, H, W]: [G, 1, 3, 3]."""
    groups, height, width = x.shape[1:]
    if not torch.compiler.is_exporting():
        return conv2d_weight(x, (groups, 1, KERNEL, KERNEL), error, padding=KERNEL // 2, groups=groups)
    # ONNX has no such operator. As sums it needs several times as long.
    x, places = F.pad(x, 4 * [KERNEL // 2]), [(i, j) for i in range(KERNEL) for j in range(KERNEL)]
    taps = [(x[..., i : i + height, j : j + width] * error).sum(dim=(-2, -1)) for i, j in places]
    return torch.stack(taps, dim=-1).view(groups, 1, KERNEL, KERNEL)


def _clip(gradient: Tensor, dim: int | tuple[int, int]) -> Tensor:
    """A gradient whose norm over ``dim`` stays below 1."""
    return gradient / (1 + torch.linalg.vector_norm(gradient, dim=dim, keepdim=True))


def _widen(*tensors: Tensor) -> list[Tensor]:
    return [x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]


def _full_precision(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)
