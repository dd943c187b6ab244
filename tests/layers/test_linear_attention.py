"""Linear attention against its definition with all weights written out, and beyond the range of half precision."""

import math

import pytest
import torch
import torch.nn.functional as F

from mmbackbones.layers.linear_attention import RotaryLinearAttention, linear_attention, rotate

DIM, HEADS = 12, 3


def maps(count, grid=(4, 5), dim=DIM, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, *grid, dim, generator=generator, dtype=dtype) for _ in range(count)]


def turned_by_definition(x):
    """One complex number per pair of channels, turned by the row or the column times its frequency."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    half = pairs.shape[-1] // 2
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            for k in range(half):
                frequency = 10000 ** (-k / half)
                for place, pair in ((row, k), (column, half + k)):
                    angle = torch.tensor(complex(math.cos(place * frequency), math.sin(place * frequency)))
                    pairs[:, row, column, pair] *= angle
    return torch.view_as_real(pairs).flatten(-2)


@pytest.mark.parametrize('grid', [(4, 5), (1, 3), (5, 1)], ids=str)
def test_rotation(grid):
    (x,) = maps(1, grid)
    torch.testing.assert_close(rotate(x), turned_by_definition(x.clone()), atol=1e-6, rtol=1e-6)


def test_rotation_tells_how_far_tokens_are_apart():
    """Products of rotated tokens depend on the distance of their places alone."""
    row = torch.randn(2, DIM, generator=torch.Generator().manual_seed(0)).expand(6, 7, 2, DIM).permute(2, 0, 1, 3)
    q, k = rotate(row)
    product = (q[1, 2] * k[3, 5]).sum()
    torch.testing.assert_close((q[2, 1] * k[4, 4]).sum(), product)
    assert abs((q[2, 1] * k[4, 5]).sum() - product) > 1e-3
    assert abs((q[2, 1] * k[5, 4]).sum() - product) > 1e-3


@pytest.mark.parametrize('rotary', [False, True], ids=['plain', 'rotary'])
def test_definition(rotary):
    q, k, v = maps(3)
    heads = [slice(4 * i, 4 * i + 4) for i in range(HEADS)]
    positive = [F.elu(x) + 1 for x in (q, k)]
    signed = [turned_by_definition(x.clone()) for x in positive] if rotary else positive
    y = []
    for head in heads:
        flat_q, flat_k, flat_v, turned_q, turned_k = (x[..., head].flatten(1, 2) for x in (*positive, v, *signed))
        weights = turned_q @ turned_k.transpose(1, 2) / 20
        total = (flat_q @ flat_k.transpose(1, 2)).mean(2, keepdim=True) + 1e-6
        y.append((weights @ flat_v / total).unflatten(1, (4, 5)))
    torch.testing.assert_close(linear_attention(q, k, v, HEADS, rotary=rotary), torch.cat(y, -1), atol=1e-6, rtol=1e-6)


def test_gradients():
    q, k, v = (x.requires_grad_() for x in maps(3, (2, 2), 4))
    assert torch.autograd.gradcheck(lambda *x: linear_attention(*x, 2, rotary=True), (q, k, v), atol=1e-4)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
def test_sums_beyond_half_precision(dtype):
    """20,000 equal tokens give their value back; the sum of their products, 2e10, fits no half precision."""
    value = 1000 + torch.arange(DIM)
    x = value.to(dtype).expand(1, 100, 200, DIM)
    with torch.autocast('cpu', dtype):
        y = linear_attention(x, x, x, HEADS, rotary=False)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, x.float(), atol=0, rtol=1e-4)


def test_tiny_weights_are_not_divided_by_zero():
    q, k, v = maps(3, dtype=torch.float32)
    y = linear_attention(q - 1000, k - 1000, v, HEADS, rotary=False)
    assert (y == 0).all()


def test_values_are_the_tokens_and_their_neighbourhood():
    """Without queries' weights all tokens count alike: the mean, and the convolution of MILA's LePE."""
    torch.manual_seed(0)
    attention = RotaryLinearAttention(DIM, HEADS)
    attention.qk.weight.data.zero_()
    attention.qk.bias.data.zero_()
    (x,) = maps(1, (1, 1), dtype=torch.float32)  # at place 0 nothing is rotated
    torch.testing.assert_close(
        attention(x), x + x * attention.lepe.weight[:, 0, 1, 1] + attention.lepe.bias, atol=1e-5, rtol=1e-5
    )
