"""Blocks with states: equal to attention written out block by block, at any size of map; the states alone cross."""

import pytest
import torch
import torch.nn.functional as F

from mmbackbones.layers.block_state import BlockStateMixer, block_sides

DIM, HEAD = 12, 4
GRIDS = [(1, 1), (3, 5), (7, 14), (8, 9), (15, 1), (10, 22)]


def mixer():
    torch.manual_seed(0)
    return BlockStateMixer(DIM, d_state=4, dt_rank=2, head_width=HEAD)


def tokens(*grid, batch=2):
    return torch.randn(batch, *grid, DIM, generator=torch.Generator().manual_seed(1))


def block_by_block(net, x):
    """Attention of each block's tokens to them and their states, head by head, nothing filled up."""
    y, states = torch.zeros_like(x), net.states(x)
    h, w = block_sides(*x.shape[1:3])
    for top in range(0, x.shape[1], h):
        for left in range(0, x.shape[2], w):
            place = (slice(None), slice(top, top + h), slice(left, left + w))
            own, state = (source[place].flatten(1, 2) for source in (x, states))
            key, value = net.kv(torch.cat((own, state), dim=1)).chunk(2, dim=-1)
            heads = [
                torch.softmax(q @ k.transpose(1, 2) / HEAD**0.5, dim=-1) @ v
                for q, k, v in zip(*(part.split(HEAD, dim=-1) for part in (net.q(own), key, value)))
            ]
            y[place] = net.proj(torch.cat(heads, dim=-1)).view(y[place].shape)
    return y


@pytest.mark.parametrize('grid', GRIDS, ids=str)
def test_it_is_attention_block_by_block(grid):
    """Values and every gradient; states at the edge, in blocks that are filled up, count once."""
    net, x = mixer(), tokens(*grid).requires_grad_()
    weight = torch.randn(x.shape)
    found, expected = net(x), block_by_block(net, x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    inputs = dict(net.named_parameters(), x=x)
    gradients = [torch.autograd.grad((y * weight).sum(), inputs.values()) for y in (found, expected)]
    for name, one, other in zip(inputs, *gradients):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f'{n}: {m}')


def test_the_states_are_those_of_scans_from_both_ends():
    """A token before the block and one behind it both reach it, and neither does without the scans."""
    net, x = mixer().double(), tokens(15, 16, batch=1).double().requires_grad_()

    def seen(place):
        (gradient,) = torch.autograd.grad(net(x)[(0, *place)].square().sum(), x)
        return (gradient[0] != 0).any(-1)

    assert seen((7, 8)).all() and seen((0, 0)).all()
    with torch.no_grad():
        net.x_proj_weight.zero_()  # B and C too: what is left of a scan is its skip
    rows, columns = seen((7, 8)).nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 9, 6, 11)
    assert seen((7, 8)).sum() == 5 * 6


def test_blocks_are_even_and_never_empty():
    assert [block_sides(side, 1)[0] for side in (1, 7, 8, 14, 15, 22, 32, 50, 80)] == [1, 7, 4, 7, 5, 6, 7, 7, 7]
    for side in range(1, 400):
        block, _ = block_sides(side, 1)
        blocks = -(-side // block)
        assert 1 <= block <= 7 and blocks == -(-side // 7) and (blocks - 1) * block < side


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
def test_half_precision_keeps_its_scans_in_float32(dtype):
    net = mixer()
    x = F.layer_norm(tokens(30, 41), (DIM,)).to(dtype).requires_grad_()
    with torch.autocast('cpu', dtype=dtype):
        y = net(x)
        assert net.states(x).dtype == torch.float32
    assert y.dtype == dtype and y.isfinite().all()
    expected = net(x.float())
    assert (y - expected).abs().max() < 0.05 * expected.abs().max()
    y.float().sum().backward()
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in net.parameters())
