"""Cases for the selective scan and the comparison with its specification."""

import json

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from mmbackbones.ops.selective_scan import ScanArguments, naive, selective_scan
from mmbackbones.ops.selective_scan.frame import frame_forward

INPUTS = ('u', 'delta', 'A', 'B', 'C', 'D', 'z', 'delta_bias')


def random_inputs(
    batch: int = 2,
    dim: int = 6,
    length: int = 37,
    state: int = 4,
    groups: int = 0,
    *,
    absent: tuple[str, ...] = (),
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Inputs as a trained model has them: steps of about 0.5, A in -1..-N; ``groups`` 0 gives B of shape (B, N, L)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    maps = (batch, groups, state, length) if groups else (batch, state, length)
    inputs = dict(
        u=normal(batch, dim, length),
        delta=0.5 * normal(batch, dim, length),
        A=-torch.arange(1.0, state + 1, dtype=torch.float64).expand(dim, state)
        * (0.5 + torch.rand(dim, state, generator=generator, dtype=torch.float64)),
        B=normal(*maps),
        C=normal(*maps),
        D=normal(dim),
        z=normal(batch, dim, length),
        delta_bias=0.5 * normal(dim),
    )
    return {name: x.to(dtype) for name, x in inputs.items() if name not in absent}


def golden_cases(path) -> dict[str, tuple[dict[str, Tensor], dict[str, Tensor], bool]]:
    """Inputs, expected tensors and delta_softplus of each golden case."""
    with safe_open(path, 'pt') as file:
        settings, tensors = json.loads(file.metadata()['cases']), load_file(path)
    cases = {}
    for setting in settings:
        case = {name.split('.')[1]: x for name, x in tensors.items() if name.startswith(setting['case'] + '.')}
        inputs = {name: case.pop(name) for name in INPUTS if name in case}
        cases[setting['case']] = inputs, case, setting['delta_softplus']
    return cases


def run(inputs: dict[str, Tensor], dout: Tensor, dlast_state: Tensor | None = None, **options) -> dict[str, Tensor]:
    """Output, last state and the gradient of every input; on a GPU, where there is one, for backends that serve it.

    Without C the output is the states.
    """
    device = 'cuda' if options.get('backend') in ('triton', 'mamba_ssm') and torch.cuda.is_available() else 'cpu'
    inputs = {name: x.detach().clone().to(device).requires_grad_() for name, x in inputs.items()}
    if options.get('order') is not None:
        options['order'] = options['order'].to(device)
    out, last_state = selective_scan(**{'C': None, **inputs}, return_last_state=True, **options)
    outputs, cotangents = [out], [dout.to(out)]
    if dlast_state is not None:
        outputs, cotangents = [out, last_state], [dout.to(out), dlast_state.to(last_state)]
    gradients = torch.autograd.grad(outputs, list(inputs.values()), cotangents)
    found = dict(out=out.detach(), last_state=last_state.detach())
    found |= {f'grad_{name}': gradient for name, gradient in zip(inputs, gradients)}
    return {name: x.cpu() for name, x in found.items()}


def specification(
    inputs: dict[str, Tensor],
    dout: Tensor,
    dlast_state: Tensor | None = None,
    delta_softplus: bool = False,
    reverse: bool = False,
    order: Tensor | None = None,
) -> dict[str, Tensor]:
    """What :func:`run` returns, by autograd through the naive loop in float64; by an order of a gathered copy.

    Without C a loop of its own gives the states.
    """
    leaves = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    full = dict.fromkeys(INPUTS) | leaves
    full |= {name: x.unsqueeze(1) for name in ('B', 'C') if (x := full[name]) is not None and x.dim() == 3}
    if order is not None:
        filled = order >= 0
        full |= {
            name: torch.where(filled, full[name][..., order.clamp(min=0)], 0)
            for name in ('u', 'delta', 'B', 'C', 'z')
            if full[name] is not None
        }
    recurrence = naive.recurrence if 'C' in leaves else states_one_by_one
    out, last_state = frame_forward(recurrence, ScanArguments(*full.values(), delta_softplus, reverse, None))
    if order is not None:
        out = torch.full_like(leaves['u'], torch.nan).index_copy(-1, order[filled], out[..., filled])
    total = (out * dout).sum() + (0 if dlast_state is None else (last_state * dlast_state).sum())
    gradients = torch.autograd.grad(total, list(leaves.values()))
    return dict(
        out=out.detach(), last_state=last_state.detach(), **{f'grad_{name}': g for name, g in zip(leaves, gradients)}
    )


def states_one_by_one(step, x, A, B, C, reverse):
    """The states (B, D, L) of ``h = exp(step * A) * h + x * B`` with N = 1, and the last one (B, D, 1)."""
    assert C is None
    length, B = x.shape[-1], B[:, :, 0].repeat_interleave(x.shape[1] // B.shape[1], dim=1)  # [B, G, 1, L] -> [B, D, L]
    h, states = torch.zeros_like(x[..., 0]), [None] * length
    for t in reversed(range(length)) if reverse else range(length):
        h = states[t] = torch.exp(step[..., t] * A[:, 0]) * h + x[..., t] * B[..., t]
    return torch.stack(states, dim=-1), h[..., None]


def assert_equal_scans(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Every tensor within ``tolerance`` of the expected one, relative to that one's largest magnitude."""
    assert actual.keys() == expected.keys()
    for name, x in expected.items():
        assert actual[name].shape == x.shape, name
        error = (actual[name].double() - x).abs().max() / x.abs().max().clamp_min(1e-30)
        assert error <= tolerance, f'{name}: relative error {error:.2e}'
