"""Cases for directional scans and a reference that goes through each of them slot by slot."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbackbones.ops.directional_scan import directional_scan
from mmbackbones.ops.scan_orders import scan_order


def random_inputs(
    batch: int = 1,
    size: tuple[int, int] = (2, 4),
    dim: int = 3,
    state: int = 2,
    rank: int = 2,
    taps: int = 0,
    orders: tuple[str | None, ...] = (None, None),
    *,
    absent: tuple[str, ...] = (),
    dtype: torch.dtype = torch.float32,
) -> tuple[dict[str, Tensor], list]:
    """Inputs as a trained model has them, and the orders over a map of that size."""
    generator = torch.Generator().manual_seed(0)
    tokens, directions = size[0] * size[1], len(orders)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    inputs = dict(
        x=normal(batch, tokens, dim),
        proj_weight=normal(directions, rank + 2 * state, dim) * dim**-0.5,
        dt_weight=normal(directions, dim, rank) * rank**-0.5,
        dt_bias=0.5 * normal(directions, dim),
        A=-torch.arange(1.0, state + 1, dtype=torch.float64) * (0.5 + normal(directions, dim, state).sigmoid()),
        D=normal(directions, dim),
        z=normal(batch, tokens, dim),
        conv_weight=normal(directions, dim, taps) * max(taps, 1) ** -0.5,
        conv_bias=normal(directions, dim),
    )
    if not taps:
        absent = (*absent, 'conv_weight', 'conv_bias')
    inputs = {name: x.to(dtype) for name, x in inputs.items() if name not in absent}
    return inputs, [None if name is None else scan_order(name, *size) for name in orders]


def run(inputs: dict[str, Tensor], function=directional_scan, **options) -> dict[str, Tensor]:
    """The output and, for a fixed gradient of it, the gradient of every input."""
    inputs = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    y = function(**inputs, **options)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(y, list(inputs.values()), dy.to(y.dtype))
    return dict(y=y.detach(), **{f'grad_{name}': g for name, g in zip(inputs, gradients)})


def specification(inputs: dict[str, Tensor], orders, reverse) -> dict[str, Tensor]:
    """What :func:`run` returns, in float64, by autograd through one step after the other."""
    return run({name: x.double() for name, x in inputs.items()}, step_by_step, orders=orders, reverse=reverse)


def step_by_step(
    x, proj_weight, dt_weight, dt_bias, A, D=None, z=None, conv_weight=None, conv_bias=None, *, orders, reverse
):
    batch, tokens, dim = x.shape
    rank, state = dt_weight.shape[2], A.shape[2]
    zero = x.new_zeros(batch, dim)
    total = [zero] * tokens
    for k in range(len(A)):
        slots = list(range(tokens)) if orders[k] is None else orders[k].order.tolist()
        h, seen = x.new_zeros(batch, dim, state), []
        for t in reversed(slots) if reverse[k] else slots:
            seen.append(zero if t < 0 else x[:, t])
            u = seen[-1]
            if conv_weight is not None:
                taps = conv_weight.shape[2]
                u = sum(conv_weight[k, :, -1 - ago] * seen[-1 - ago] for ago in range(min(taps, len(seen))))
                u = F.silu(u if conv_bias is None else u + conv_bias[k])
            projected = u @ proj_weight[k].T
            low_rank, B, C = (projected if t >= 0 else 0 * projected).split([rank, state, state], dim=1)
            step = F.softplus(low_rank @ dt_weight[k].T + dt_bias[k])
            h = torch.exp(step[:, :, None] * A[k]) * h + (step * u)[:, :, None] * B[:, None]
            if t >= 0:
                y = (h * C[:, None]).sum(2)
                total[t] = total[t] + (y if D is None else y + D[k] * u)
    y = torch.stack(total, dim=1)
    return y if z is None else y * F.silu(z)


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Every tensor within ``tolerance`` of the expected one, relative to that one's largest magnitude."""
    assert actual.keys() == expected.keys()
    for name, x in expected.items():
        assert actual[name].shape == x.shape, name
        error = (actual[name].double() - x.double()).abs().max() / x.abs().max().clamp_min(1e-30)
        assert error <= tolerance, f'{name}: relative error {error:.2e}'
