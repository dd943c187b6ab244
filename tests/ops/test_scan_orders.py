import pytest
import torch
from safetensors.torch import load_file

from mmbackbones.errors import InputError
from mmbackbones.ops.scan_orders import (
    ScanOrder,
    cross_merge,
    cross_scan,
    localmamba_displacement,
    localmamba_unscan_order,
    merge_sequences,
    move_codes,
    permute_tokens,
    quarter_orders,
    scan_order,
    to_map,
    to_sequence,
    to_sequences,
)
from tests.conftest import golden

SIZES = [(4, 6), (5, 3), (7, 9), (14, 14)]
STRIDED_SIZES = [(4, 6), (5, 3), (7, 9), (8, 8)]
NAMES = [
    base + flip
    for base in ('h', 'v', 'w1', 'w2', 'w3', 'w7', 'w2v', 'w7v', 's2', 'snake_h', 'snake_v')
    for flip in ('', '_flip')
]
LOCAL_NAMES = [base + flip for base in ('h', 'v', 'w2', 'w3', 'w7') for flip in ('', '_flip')]
SNAKES = ('snake_h', 'snake_h_flip', 'snake_v', 'snake_v_flip')


def size_id(size):
    return '{}x{}'.format(*size)


@pytest.fixture
def cases():
    return load_file(golden('cross_scan_cases.safetensors'))


@pytest.fixture
def strided_cases():
    return load_file(golden('efficientvmamba_scan_cases.safetensors'))


@pytest.mark.parametrize('size', [*SIZES, (1, 1), (1, 5), (5, 1), (2, 13)], ids=size_id)
@pytest.mark.parametrize('name', NAMES)
def test_every_pixel_has_one_slot_and_returns_from_it(name, size):
    order, inverse, _ = scan_order(name, *size)
    num_pixels = size[0] * size[1]
    assert sorted(order[order >= 0].tolist()) == list(range(num_pixels))
    assert torch.equal(order[inverse], torch.arange(num_pixels))
    x = torch.randn(2, 3, num_pixels)
    assert torch.equal(to_map(to_sequence(x, (scan := scan_order(name, *size))), scan), x)


@pytest.mark.parametrize('size', SIZES, ids=size_id)
@pytest.mark.parametrize(
    'kind, names',
    [
        ('cross2d', ('h', 'v', 'h_flip', 'v_flip')),
        ('unidi', ('h', 'h', 'h', 'h')),
        ('bidi', ('h', 'h', 'h_flip', 'h_flip')),
    ],
)
def test_vmamba_orders(cases, kind, names, size):
    expected = cases[f'vmamba.{size_id(size)}.{kind}.order']
    assert torch.equal(torch.stack([scan_order(name, *size).order for name in names]), expected)


@pytest.mark.parametrize('size', SIZES, ids=size_id)
def test_vmamba_cross_scan_and_merge(cases, size):
    key = f'vmamba.{size_id(size)}.'
    assert torch.equal(cross_scan(cases[key + 'x']), cases[key + 'cross_scan'])
    merged = cross_merge(cases[key + 'y'].flatten(3), *size)
    torch.testing.assert_close(merged, cases[key + 'cross_merge'], atol=1e-6, rtol=0)


@pytest.mark.parametrize('size', SIZES, ids=size_id)
def test_two_directions_are_the_first_two_of_four(size):
    x = torch.randn(2, 3, *size)
    pair = cross_scan(x, directions=2)
    assert torch.equal(pair, cross_scan(x)[:, :2])
    both = torch.cat([pair, torch.zeros_like(pair)], dim=1)
    torch.testing.assert_close(cross_merge(pair, *size), cross_merge(both, *size), atol=0, rtol=0)


@pytest.mark.parametrize('size', SIZES, ids=size_id)
@pytest.mark.parametrize('name', LOCAL_NAMES)
def test_localmamba_orders_and_both_unscans(cases, name, size):
    key = f'local.{size_id(size)}.{name}.'
    assert torch.equal(scan_order(name, *size).order, cases[key + 'order'])
    assert torch.equal(localmamba_unscan_order(name, *size).inverse, cases[key + 'official_unscan'])
    assert torch.equal(localmamba_unscan_order(name, *size, exact=True).inverse, cases[key + 'true_unscan'])


@pytest.mark.parametrize('size', SIZES, ids=size_id)
def test_localmamba_column_first_windows(cases, size):
    for window in (2, 7):
        expected = cases[f'local.{size_id(size)}.w{window}_columnfirst.order']
        assert torch.equal(scan_order(f'w{window}v', *size).order, expected)


@pytest.mark.parametrize('size', SIZES, ids=size_id)
@pytest.mark.parametrize('name', ['v_flip', 'w2_flip', 'w7'])
def test_localmamba_scanned_values(cases, name, size):
    key = f'local.{size_id(size)}.'
    x = cases[key + 'x_blc'].transpose(1, 2)
    assert torch.equal(to_sequence(x, scan_order(name, *size)), cases[f'{key}{name}.scan_of_x_blc'])


@pytest.mark.parametrize('size', SIZES, ids=size_id)
def test_plainmamba_snakes(cases, size):
    key = f'plain.{size_id(size)}.'
    orders = [scan_order(name, *size) for name in SNAKES]
    assert torch.equal(torch.stack([order for order, *_ in orders]), cases[key + 'order'])
    assert torch.equal(torch.stack([inverse for _, inverse, _ in orders]), cases[key + 'inverse'])
    assert torch.equal(torch.stack([move_codes(name, *size) for name in SNAKES]), cases[key + 'direction'])


def test_a_map_one_pixel_wide_is_walked_downwards():
    assert move_codes('snake_h', 3, 1).tolist() == [0, 4, 4]
    assert move_codes('snake_v_flip', 3, 1).tolist() == [0, 3, 3]
    assert move_codes('snake_v', 1, 3).tolist() == [0, 1, 1]


@pytest.mark.parametrize('size', STRIDED_SIZES, ids=size_id)
def test_efficientvmamba_groups_values_and_gradients(strided_cases, size):
    prefix = size_id(size) + '.'
    case = {key.removeprefix(prefix): value for key, value in strided_cases.items() if key.startswith(prefix)}
    order = scan_order('s2', *size)
    assert torch.equal(order.order.view(4, -1), case['order'])

    x = case['x'].clone().requires_grad_()
    # [B, C, 4*S] -> [B, 4, C, S]
    scanned = to_sequence(x.flatten(2), order).unflatten(-1, (4, -1)).transpose(1, 2)
    assert torch.equal(scanned, case['scan'])
    assert torch.equal(torch.autograd.grad(scanned, x, case['y'])[0], case['scan_grad_x_for_y'])

    y = case['y'].clone().requires_grad_()
    merged = to_map(y.transpose(1, 2).flatten(2), order).unflatten(-1, size)
    assert torch.equal(merged, case['merge'])
    assert torch.equal(torch.autograd.grad(merged, y, case['x'])[0], case['merge_grad_y_for_x'])


def test_padding_reads_zero_even_beside_nan():
    x = torch.full((1, 15), float('nan'))
    sequence = to_sequence(x, scan_order('w2', 5, 3))
    padding = scan_order('w2', 5, 3).order < 0
    assert torch.equal(sequence[0] == 0, padding)
    assert sequence[0, ~padding].isnan().all()


@pytest.mark.parametrize('name', ['v_flip', 'w2', 's2', 'snake_v'])
def test_gather_gradients(name):
    order = scan_order(name, 5, 3)
    x = torch.randn(2, 15, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, order.order.numel(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: to_sequence(x, order), x)
    assert torch.autograd.gradcheck(lambda y: to_map(y, order), y)
    assert torch.autograd.gradgradcheck(lambda y: to_map(y, order).square(), y)


def test_permuted_tokens_and_their_gradients():
    x = torch.randn(2, 12, 3, dtype=torch.float64, requires_grad=True)
    order = scan_order('snake_v', 3, 4)
    assert torch.equal(permute_tokens(x, order), to_sequence(x.mT, order).mT)
    assert torch.equal(permute_tokens(permute_tokens(x, order), ScanOrder(order.inverse, order.order)), x)
    assert torch.autograd.gradcheck(lambda x: permute_tokens(x, order), x)
    assert torch.autograd.gradgradcheck(lambda x: permute_tokens(x, order).square(), x)


@pytest.mark.parametrize('size', [*SIZES, (1, 1), (1, 5), (5, 1), (2, 13)], ids=size_id)
def test_quarters_are_the_order_s2_in_two_steps(size):
    tokens, quarters, lengths = quarter_orders(*size)
    assert sum(lengths) == size[0] * size[1] and len(quarters) == len(lengths) == 4
    assert torch.equal(tokens.order[tokens.inverse], torch.arange(sum(lengths)))
    slots = []
    for quarter, mine in zip(quarters, tokens.order.split(lengths)):
        padded = torch.cat((mine, mine.new_tensor([-1])))  # whose last is read by -1
        assert sorted(quarter[quarter >= 0].tolist()) == list(range(len(mine)))
        slots.append(padded[quarter])
    assert torch.equal(torch.cat(slots), scan_order('s2', *size).order)


@pytest.mark.parametrize('size', SIZES, ids=size_id)
@pytest.mark.parametrize('name', ['h', 'v', 'v_flip', 'w3'])
def test_displacement_is_that_of_the_published_inverse(name, size):
    y = torch.randn(2, size[0] * size[1], 3)
    sequence = to_sequence(y.mT, scan_order(name, *size))
    expected = to_map(sequence, localmamba_unscan_order(name, *size)).mT
    displacement = localmamba_displacement(name, *size)
    assert torch.equal(y if displacement is None else permute_tokens(y, displacement), expected)
    assert (displacement is None) == (name not in ('v', 'v_flip') or size[0] == size[1])
    assert localmamba_displacement(name, *size, exact=True) is None


def test_cross_gradients():
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    for directions in (4, 2):
        assert torch.autograd.gradcheck(lambda x, k=directions: cross_scan(x, k), x)
        y = torch.randn(1, directions, 2, 12, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda y: cross_merge(y, 3, 4), y)


@pytest.mark.parametrize('names', [(None, 'v'), ('v', None, 'v'), ('w2', 'w2v'), (None, 'h_flip')])
def test_sequences_side_by_side_are_single_ones_and_merge_to_their_sum(names):
    orders = [name and scan_order(name, 4, 6) for name in names]
    x = torch.randn(2, 3, 24, dtype=torch.float64, requires_grad=True)
    single = [x if order is None else to_sequence(x, order) for order in orders]
    u = to_sequences(x, orders)
    assert torch.equal(u, torch.stack(single, dim=1))
    assert torch.allclose(merge_sequences(u, orders), len(orders) * x)
    weights = torch.arange(1, 1 + len(orders), dtype=torch.float64)[:, None, None]
    assert torch.autograd.gradcheck(lambda x: merge_sequences(weights * to_sequences(x, orders), orders), x)
    assert torch.autograd.gradgradcheck(lambda x: merge_sequences(to_sequences(x, orders), orders).pow(2), x)


def test_cached_and_still_differentiable_after_inference_mode():
    with torch.inference_mode():
        first = scan_order('snake_h', 6, 11)
        codes = move_codes('snake_h', 6, 11)
    assert scan_order('snake_h', 6, 11).order is first.order
    assert not first.order.is_inference() and not codes.is_inference()
    x = torch.randn(66, requires_grad=True)
    to_sequence(x, first).sum().backward()
    assert torch.equal(x.grad, torch.ones(66))


def test_meta_device():
    order = scan_order('w2', 5, 3, 'meta')
    assert to_sequence(torch.empty(2, 15, device='meta'), order).shape == (2, 24)


def test_compiles_without_a_break():
    def mix(x):
        order = scan_order('w2', x.shape[2], x.shape[3], x.device)
        local = to_map(to_sequence(x.flatten(2), order).cumsum(-1), order)
        return local + cross_merge(cross_scan(x).cumsum(-1), x.shape[2], x.shape[3])

    x = torch.randn(1, 2, 5, 3, requires_grad=True)
    results = [f(x) for f in (mix, torch.compile(mix, fullgraph=True, backend='aot_eager'))]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*(torch.autograd.grad(y.square().sum(), x)[0] for y in results))


@pytest.mark.parametrize('name', ['x', 'w0', 'w', 'h_flip_flip', 's3', 'snake', ''])
def test_unknown_order_is_named(name):
    with pytest.raises(InputError, match=f"scan order '{name}' unknown"):
        scan_order(name, 4, 4)


def test_other_bad_input():
    with pytest.raises(InputError, match='height and width must be positive, got 0 x 4'):
        scan_order('h', 0, 4)
    with pytest.raises(InputError, match="order 'h' jumps"):
        move_codes('h', 4, 4)
    with pytest.raises(InputError, match='directions must be 4 or 2, got 3'):
        cross_scan(torch.zeros(1, 1, 2, 2), 3)
    with pytest.raises(InputError, match=r'y must be \(B, 4 or 2, C, 2\*3\), got \(1, 4, 1, 5\)'):
        cross_merge(torch.zeros(1, 4, 1, 5), 2, 3)
