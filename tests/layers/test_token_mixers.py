"""Token mixers: who sees whom, what each costs, and that the control costs the same and mixes nothing."""

import pytest
import torch

from mmbackbones.analysis.complexity.count import PUBLISHED_RULE, SCAN_RULES, count_module
from mmbackbones.errors import InputError
from mmbackbones.layers.mixer_names import BRANCHES, EXPERTS, MIXING, POINTWISE, POINTWISE_MACS
from mmbackbones.layers.token_mixers import (
    CAUSAL,
    branch_macs,
    branch_parameters,
    build_branch,
    largest_head,
)

DIM, GRID = 24, (4, 5)
# Of each mixer the tokens of a 4 x 5 map, in raster order, whose outputs a change of token 7 may reach.
REACH = {
    'ssm': set(range(7, 20)),
    'ssm-reversed': set(range(8)),
    'bissm': set(range(20)),
    'ss2d': set(range(20)),
    'ss1d-state-fused': set(range(20)),  # on a small map; see below
    'attn': set(range(20)),
    'causal-attn': set(range(7, 20)),
    's4nd': set(range(20)),
    'linear-attn': set(range(20)),
    'ssd-noncausal': set(range(20)),
    'ttt': set(range(20)),
    'block-state': set(range(20)),
    'moe': {7},
    'none': {7},
    **{name: {7} for name in POINTWISE + POINTWISE_MACS},
}


def build(name, dim=DIM, **options):
    torch.manual_seed(0)
    return build_branch(name, dim, **options)


def tokens(dim=DIM, grid=GRID, batch=2):
    return torch.randn(batch, *grid, dim, generator=torch.Generator().manual_seed(1))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize('name', BRANCHES)
def test_who_sees_whom(name):
    """A change of one token reaches exactly the outputs that it may, and no other image of the batch."""
    branch, x = build(name), tokens()
    changed = x.clone()
    changed[0, 1, 2] += torch.linspace(-1, 1, DIM)
    with torch.no_grad():
        moved = (branch(changed) != branch(x)).any(-1)
    assert set(moved[0].flatten().nonzero().flatten().tolist()) == REACH[name]
    assert not moved[1].any()
    assert (max(REACH[name]) == 19 and min(REACH[name]) == 7) == (name in CAUSAL)


@pytest.mark.parametrize('name', CAUSAL)
@pytest.mark.parametrize('at', [1, 300, 574])
def test_causal_over_long_sequences(name, at):
    """Beyond the blocks in which scans and attention are computed."""
    branch, x = build(name), tokens(grid=(23, 25), batch=1)
    changed = x.clone()
    changed.flatten(1, 2)[:, at] += torch.linspace(-1, 1, DIM)
    with torch.no_grad():
        moved = (branch(changed) != branch(x)).any(-1).flatten().nonzero().flatten()
    assert moved[0] == at and len(moved) > 0.3 * (575 - at)


@pytest.mark.parametrize('name', BRANCHES)
@pytest.mark.parametrize('grid', [(1, 1), (3, 7)], ids=str)
def test_every_parameter_has_a_gradient_and_the_shape_stays(name, grid):
    branch, x = build(name, d_state=3), tokens(grid=grid).requires_grad_()
    y = branch(x)
    assert y.shape == x.shape and y.dtype == torch.float32 and y.isfinite().all()
    (y * torch.randn(y.shape)).sum().backward()
    assert x.grad.abs().max() > 0
    if grid != (1, 1):  # a sequence of one token tells nothing of A
        assert not [key for key, p in branch.named_parameters() if p.grad is None or p.grad.abs().max() == 0]


@pytest.mark.parametrize('at', [(0, 0), (2, 3), (3, 12), (6, 4), (8, 12)], ids=str)
def test_fused_states_reach_five_rows_and_columns_ahead(at):
    """A token sees the last state that its kernels read, and with it all tokens up to that one in raster order."""
    height, width = 9, 13
    branch, x = build('ss1d-state-fused').double(), tokens(grid=(height, width), batch=1).double().requires_grad_()
    (gradient,) = torch.autograd.grad(branch(x)[0, at[0], at[1]].square().sum(), x)
    seen = (gradient != 0).any(-1).flatten().nonzero().flatten().tolist()
    last = min(at[0] + 5, height - 1) * width + min(at[1] + 5, width - 1)
    assert seen == list(range(last + 1))


def test_without_its_fusion_it_is_the_causal_scan():
    """Kernels that read only the token itself leave the scan of the arm ``ssm`` with one state."""
    fused, plain = build('ss1d-state-fused').mixer, build('ssm', d_state=1).mixer
    for key, value in fused.state_fusion.named_parameters():
        value.data.zero_()
        if key == 'kernel_3_1':
            value.data[..., 1, 1] = 0.5
    fused.state_fusion.alpha.data[1] = 2
    report = plain.load_state_dict(fused.state_dict(), strict=False)
    assert not report.missing_keys and all(key.startswith('state_fusion.') for key in report.unexpected_keys)
    x = tokens()
    torch.testing.assert_close(fused(x), plain(x))


def test_reversed_is_the_mirror_image():
    forward, backward = build('ssm'), build('ssm-reversed')
    backward.load_state_dict(forward.state_dict())
    x = tokens()
    torch.testing.assert_close(backward(x), forward(x.flip(1, 2)).flip(1, 2))


def test_both_directions_have_their_own_weights():
    both = build('bissm').mixer
    single = {name: build(name).mixer for name in ('ssm', 'ssm-reversed')}
    for i, mixer in enumerate(single.values()):
        mixer.load_state_dict(
            {
                key: value.unflatten(0, (2, -1))[i] if key in ('A_logs', 'Ds') else value[i : i + 1]
                for key, value in both.state_dict().items()
            }
        )
    x = tokens()
    torch.testing.assert_close(both(x), single['ssm'](x) + single['ssm-reversed'](x))
    assert not torch.equal(both.x_proj_weight[0], both.x_proj_weight[1])


def test_columns_are_scanned_too():
    """Transposed maps change nothing once rows and columns change places."""
    branch, x = build('ss2d'), tokens()
    y = branch(x.transpose(1, 2)).transpose(1, 2)
    assert (branch(x) - y).abs().max() > 1e-3
    with torch.no_grad():
        for key, value in branch.mixer.named_parameters():
            stacked = value.unflatten(0, (4, -1)) if key in ('A_logs', 'Ds') else value
            value.copy_(stacked[[1, 0, 3, 2]].reshape(value.shape))
    torch.testing.assert_close(branch(x), y)


@pytest.mark.parametrize('name', ['attn', 'linear-attn', 'ssd-noncausal', 'ttt'])
def test_what_sums_over_tokens_knows_no_places(name):
    branch, x = build(name), tokens()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    shuffled = x.flatten(1, 2)[:, order].unflatten(1, GRID)
    torch.testing.assert_close(branch(shuffled).flatten(1, 2), branch(x).flatten(1, 2)[:, order])


@pytest.mark.parametrize('name', MIXING + EXPERTS)
def test_scale_of_the_input_does_not_matter(name):
    """So that what a gate means does not depend on the features' scale or the mixer's."""
    branch, x = build(name), tokens()
    y = branch(x)
    torch.testing.assert_close(branch(100 * x + 3), y, atol=1e-3, rtol=1e-3)
    assert 0.8 < y.std() < 1.2


@pytest.mark.parametrize('name', ['ss2d', *MIXING[4:], *EXPERTS, 'pointwise:attn'])
def test_autocast(name):
    branch, x = build(name), tokens().bfloat16()
    with torch.autocast('cpu', torch.bfloat16):
        y = branch(x)
    assert y.isfinite().all()
    torch.testing.assert_close(y.float(), branch(x.float()), atol=0.2, rtol=0.1)


@pytest.mark.parametrize('dim', [16, 24, 66, 96, 576])
@pytest.mark.parametrize('d_state', [1, 16])
@pytest.mark.parametrize('name', MIXING + EXPERTS)
def test_the_control_has_as_many_parameters(name, d_state, dim):
    wanted = branch_parameters(name, dim, d_state=d_state)
    apart = abs(branch_parameters(f'pointwise:{name}', dim, d_state=d_state) - wanted)
    # With one state, the three numbers of each head are no small part.
    assert apart < 0.01 * wanted or (name == 'ssd-noncausal' and d_state == 1 and apart == 3 * dim // largest_head(dim))
    assert wanted == count(build(name, dim, d_state=d_state))


@pytest.mark.parametrize('dim', [24, 96, 576])
@pytest.mark.parametrize('name', [name.partition(':')[2] for name in POINTWISE_MACS])
def test_a_control_has_as_many_macs(name, dim):
    """On maps that whole blocks cover; the control with as many parameters is far from it."""
    by_macs, by_parameters, wanted = (
        branch_macs(f'{kind}{name}', dim, 14, 21) for kind in ('pointwise-macs:', 'pointwise:', '')
    )
    assert abs(by_macs / wanted - 1) < 0.01 < 0.2 < abs(by_parameters / wanted - 1)


def test_parameters_by_hand():
    """C = 96: rank 6, 16 states: (6 + 32) + 6 + 1 + 16 + 1 per channel and direction; attention has 4 C**2.

    Linear attention has 2 C**2. Test-time training has, besides attention's, two matrices of each head's width, 32. The
    long convolution has C**2 and, per channel, a skip weight and 1 + 8 + 8 + 32 for each axis. Blocks with states have
    what attention and two scans have; experts are 8 times C**2, and the router 8 times C.
    """
    by_hand = {'ssm': 62, 'ssm-reversed': 62, 'bissm': 124, 'ss2d': 248, 'attn': 384, 'causal-attn': 384, 'none': 0}
    by_hand |= {'linear-attn': 192, 'ttt': 448, 's4nd': 195, 'block-state': 384 + 124, 'moe': 8 * 96 + 8}
    assert {name: branch_parameters(name, 96) / 96 for name in by_hand} == by_hand
    # With one state, fused: (6 + 2) + 6 + 1 + 1 + 1 and three kernels of 9 per channel, and three weights.
    assert branch_parameters('ss1d-state-fused', 96) == 96 * (17 + 27) + 3
    # B, C and three heads: a column of dt's projection, A, D and dt's bias each.
    assert branch_parameters('ssd-noncausal', 96) == 96 * (32 + 3) + 3 * 3
    assert branch_parameters('ssm', 96, d_state=8, dt_rank=2) == 96 * (2 + 16 + 2 + 1 + 8 + 1)


@pytest.mark.parametrize('name', BRANCHES)
def test_macs_as_the_tables_count_them(name):
    count = count_module(build(name), tokens(batch=1, grid=(6, 8)))
    macs = count.macs['Global']
    scans = sum(elements * SCAN_RULES[PUBLISHED_RULE](state) for state, elements in count.scans.items())
    assert branch_macs(name, DIM, 6, 8) == round(sum(macs.values()) - macs['aten.native_layer_norm'] - scans / 2)


def test_macs_of_sums_by_hand():
    """C = 24 in one head of 24, 16 states, 48 tokens: products with the weights, into the sum and out of it."""
    assert branch_macs('linear-attn', 24, 6, 8) == 48 * (2 * 24**2 + 2 * 24**2 + 24)
    assert branch_macs('ssd-noncausal', 24, 6, 8) == 48 * (24 * (2 * 16 + 1) + 2 * 16 * 24)


def test_macs_of_experts_and_blocks_by_hand():
    """C = 24, 16 states, 48 tokens in two blocks of 6 x 4. Each token has one expert, 12 wide, and the router.

    Blocks have queries, two times keys and values, and an output; two products with tokens and with states; two scans
    of 145 operations per channel and token, whose projections have 2 + 32 and 2 columns.
    """
    assert branch_macs('moe', 24, 6, 8) == 48 * (24 * 8 + 2 * 24 * 12)
    projections = 6 * 24**2 + 2 * 24 * (34 + 2)
    assert branch_macs('block-state', 24, 6, 8) == 48 * (projections + 2 * 2 * 24 * 24 + 145 * 24)


@pytest.mark.parametrize(('dim', 'width'), [(96, 32), (576, 32), (48, 24), (66, 22), (31, 31), (37, 1), (64, 32)])
def test_heads(dim, width):
    assert largest_head(dim) == width and build('attn', dim).mixer.head_width == width


@pytest.mark.parametrize(
    ('name', 'options', 'message'),
    [
        ('mamba', {}, "token mixer 'mamba' unknown; known: ssm, .*pointwise:ss2d.*none"),
        ('pointwise', {}, "'pointwise' unknown; known: .*pointwise:ssm"),
        ('attn', dict(head_width=5), 'head_width=5, expected a divisor of the 24 channels'),
        ('ssd-noncausal', dict(head_width=5), 'head_width=5, expected a divisor of the 24 channels'),
        ('linear-attn', dict(head_width=5), 'head_width=5, expected a divisor of the 24 channels'),
        ('block-state', dict(head_width=5), 'head_width=5, expected a divisor of the 24 channels'),
        ('ttt', dict(head_width=5), 'head_width=5, expected a divisor of the 24 channels'),
        ('ssm', dict(d_state=0), 'd_state=0, expected 1 or more'),
        ('ssm', dict(dt_rank=-1), 'dt_rank=-1, expected 1 or more'),
    ],
    ids=str,
)
def test_bad_input(name, options, message):
    with pytest.raises(InputError, match=message) as error:
        build(name, **options)
    assert '\n' not in str(error.value)
