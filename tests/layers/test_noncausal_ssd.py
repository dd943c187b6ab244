"""The non-causal duality against its definition, token by token, and beyond the range of half precision."""

import pytest
import torch
import torch.nn.functional as F

from mmbackbones.layers.noncausal_ssd import NonCausalSSD, noncausal_ssd

HEADS, WIDTH, STATE = 3, 4, 5


def inputs(tokens=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, tokens, HEADS, WIDTH), (2, tokens, HEADS), (HEADS,), (2, tokens, STATE), (2, tokens, STATE), (HEADS,)]
    x, dt, A, B, C, D = (torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
    return x, F.softplus(dt), A.exp(), B, C, D


def by_definition(x, dt, A, B, C, D):
    y = torch.empty_like(x)
    for b in range(len(x)):
        for h in range(HEADS):
            state = sum(torch.outer(B[b, t], dt[b, t, h] * A[h] * x[b, t, h]) for t in range(x.shape[1]))
            for t in range(x.shape[1]):
                y[b, t, h] = C[b, t] @ state + D[h] * x[b, t, h]
    return y


def test_definition():
    torch.testing.assert_close(noncausal_ssd(*inputs()), by_definition(*inputs()))


def test_gradients():
    assert torch.autograd.gradcheck(noncausal_ssd, [tensor.requires_grad_() for tensor in inputs(3)])


def test_order_of_the_tokens_does_not_matter():
    x, dt, A, B, C, D = inputs()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    shuffled = noncausal_ssd(x[:, order], dt[:, order], A, B[:, order], C[:, order], D)
    torch.testing.assert_close(shuffled, noncausal_ssd(x, dt, A, B, C, D)[:, order])


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
def test_sums_beyond_half_precision(dtype):
    """20,000 tokens of 100 sum to 2e8: float16 ends at 65504, and bfloat16 stops to grow at 256 terms."""
    module = NonCausalSSD()
    module.add_heads(HEADS)
    module.A_log.data.zero_()
    module.dt_bias.data.zero_()
    module.D.data.zero_()
    grid = (100, 200)
    x = torch.full((1, *grid, HEADS * WIDTH), 100.0, dtype=dtype)
    ones, zeros = torch.ones(1, *grid, STATE, dtype=dtype), torch.zeros(1, *grid, HEADS, dtype=dtype)
    with torch.autocast('cpu', dtype):
        y = module.mix(x, ones, ones, zeros)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, torch.full_like(y, STATE * 2e6 * 0.6931472), atol=0, rtol=1e-5)


def test_initial_parameters():
    """As in Mamba-2: A from 1 to 16, dt from 0.001 to 0.1, D one."""
    module = NonCausalSSD()
    torch.manual_seed(0)
    module.add_heads(1000)
    A, dt = module.A_log.exp(), F.softplus(module.dt_bias)
    assert 1 <= A.min() < 1.1 and 15.9 < A.max() <= 16 and abs(A.mean() - 8.5) < 0.5
    assert 0.999e-3 <= dt.min() < 1.1e-3 and 0.09 < dt.max() <= 0.1001
    assert abs(dt.log().mean() - torch.tensor(0.01).log()) < 0.2
    assert (module.D == 1).all()
