"""TransNeXt against the authors' network, tensor by tensor, and what this package adds to it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmbackbones.backbones import TransNeXt
from mmbackbones.backbones.transnext import (
    AggregatedAttention,
    GlobalAttention,
    _bins,
    _distances,
    _half_steps,
    _inside,
)
from mmbackbones.checkpoints.adapters.transnext import convert_transnext
from mmbackbones.errors import InputError
from tests.backbones.staged_cases import TOLERANCE, build_whole, load_case, load_keys, load_weights

SMALL = dict(dims=(8, 12, 16, 24), depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 3))
CASES = ['square', 'nonsquare', 'odd_size', 'eps', 'aaaa_square']


def build_like(options, **overrides):
    arch = dict(
        dims=tuple(options['embed_dims']),
        depths=tuple(options['depths']),
        num_heads=tuple(options['num_heads']),
        ratios=tuple(options['sr_ratios']),
        mlp_ratios=tuple(options['mlp_ratios']),
        pretrain_size=options['pretrain_size'],
    )
    return TransNeXt(arch=arch, **{'img_size': options['img_size'], **overrides}).eval()


@torch.no_grad()
def compare(case, change=lambda model: None):
    """Every recorded tensor: embeddings, stages, returned maps in both modes, and the classifier put on top."""
    model, other = build_like(case.options), build_like(case.options, position_bias='extrapolated')
    for each in (model, other):
        load_weights(each, case.weights)
        change(each)
    actual, x = {}, case.tensors['x']

    def record(key):
        return lambda module, inputs, output: actual.__setitem__(key, output.permute(0, 3, 1, 2))

    model.patch_embed.register_forward_hook(record('patch_embed'))
    for i, stage in enumerate(model.layers):
        stage.blocks[-1].register_forward_hook(record(f'stage.{i}'))
        if stage.downsample is not None:
            stage.downsample.register_forward_hook(record(f'downsample.{i}'))
    outs = model(x)
    actual['pooled_norm'] = outs[3].mean((2, 3))
    actual['logits'] = F.linear(actual['pooled_norm'], case.weights['head.weight'], case.weights['head.bias'])
    if 'out.0' in case.tensors:  # the dense copy does not run with a window in the last stage
        actual |= {f'out.{i}': out for i, out in enumerate(outs)}
        actual |= {f'out_extrapolation.{i}': out for i, out in enumerate(other(x))}

    expected = {key for key in case.tensors if not key.startswith('state_dict') and key != 'x'}
    assert expected == actual.keys()
    for key, value in actual.items():
        torch.testing.assert_close(value, case.tensors[key], msg=lambda m, k=key: f'{k}: {m}', **TOLERANCE)
    return max((value - case.tensors[key]).abs().max().item() for key, value in actual.items())


@pytest.mark.parametrize('name', CASES)
def test_golden(name):
    assert compare(load_case(f'transnext_{name}')) < 5e-5


def _divide_by_the_current_size(model):
    for i, stage in enumerate(model.layers):
        for block in stage.blocks:
            block.attn.divisor = model.img_size // 2 ** (i + 2) - 1


def _one_eps(model):
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6


@pytest.mark.parametrize('name, change', [('odd_size', _divide_by_the_current_size), ('eps', _one_eps)])
def test_golden_rejects_another_network(name, change):
    with pytest.raises(AssertionError, match='not close'):
        compare(load_case(f'transnext_{name}'), change)


@pytest.mark.parametrize('name', TransNeXt.archs)
def test_published_keys(name):
    published = load_keys(f'transnext_{name}')
    with torch.device('meta'):
        model = TransNeXt(arch=name)
        weights = {key: torch.empty(shape) for key, shape in published['keys']}
    shapes = {key: value.shape for key, value in convert_transnext(weights).items()}
    own = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: shape for key, shape in shapes.items() if not key.startswith('head.')} == own
    head = sum(weights[key].numel() for key in ('head.weight', 'head.bias'))
    assert sum(p.numel() for p in model.parameters()) + head == published['num_parameters']
    options = published['kwargs']
    ratios, heads = (
        [{getattr(block.attn, key) for block in stage.blocks} for stage in model.layers]
        for key in ('ratio', 'num_heads')
    )
    assert ratios == [{ratio} for ratio in options['sr_ratios']]
    assert heads == [{number} for number in options['num_heads']]
    divisors = [stage.blocks[0].attn.divisor for stage in model.layers]
    assert divisors == [options['pretrain_size'] // stride - 1 for stride in (4, 8, 16, 32)]


@pytest.mark.parametrize('arch, det, seg', [('tiny', 47.9, 59), ('small', 69.3, 80), ('base', 109.2, 121)])
def test_detectors_and_segmentors_have_the_published_parameters(arch, det, seg):
    for task, published in (('det', det), ('seg', seg)):
        model = build_whole(task, TransNeXt, arch)
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(published, rel=0.01)


def test_pooled_tokens_lie_at_the_mean_of_their_bins():
    for side, ratio in ((10, 4), (7, 2), (25, 8), (5, 1), (3, 8)):
        count = max(side // ratio, 1)
        centres = F.adaptive_avg_pool1d(torch.arange(side, dtype=torch.float64)[None], count)[0]
        expected = torch.arange(side, dtype=torch.float64)[:, None] - centres
        for distances in (_distances, _half_steps):
            known, index = distances(side, ratio, torch.device('cpu'))
            torch.testing.assert_close(known.double()[index], expected)
            assert known.diff().gt(0).all()
        assert len(known) == 4 * side - 3


def test_neighbours_inside_the_map():
    inside = _inside(3, 4, torch.device('cpu'))
    assert inside.sum(-1).unflatten(0, (3, 4)).tolist() == [[4, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]]
    assert inside[0].tolist() == 4 * [False] + [True, True, False, True, True]
    assert _inside(1, 1, torch.device('cpu')).sum() == 1


def test_a_row_of_weights_is_a_distribution_before_the_learnable_tokens():
    """With equal values everywhere the output is these values, wherever a token lies."""
    torch.manual_seed(0)
    attention = AggregatedAttention(8, 2, 2, divisor=3, grid_side=None).eval()
    with torch.no_grad():
        attention.learnable_tokens.zero_()
        attention.kv.weight[8:].zero_()
        attention.kv.bias[8:] = torch.arange(8.0)
        y = attention(torch.randn(1, 5, 7, 8))
        torch.testing.assert_close(y, attention.proj(torch.arange(8.0)).expand_as(y))


def test_the_bias_is_the_same_on_squares_of_its_size_alone():
    torch.manual_seed(0)
    for attention in (AggregatedAttention(8, 2, 2, 3, 8), GlobalAttention(8, 2, 3, 8)):
        here, wide = attention.position_bias(8, 8), attention.position_bias(8, 12)
        attention.grid_side = None
        torch.testing.assert_close(here, attention.position_bias(8, 8))
        other = attention.position_bias(8, 12)
        assert wide.shape == other.shape and not torch.allclose(wide, other, atol=1e-3)


@pytest.mark.parametrize('side', [4, 9, 28])
def test_maps_below_the_pooling_ratio(side):
    """The authors' code fails there."""
    with torch.no_grad():
        outs = TransNeXt(arch=SMALL).eval()(torch.randn(1, 3, side, 2 * side))
    assert all(out.isfinite().all() for out in outs)


def test_padding_has_no_exploding_gradient_before_training():
    """Its tokens are zeros then, which no length makes unit vectors; ``F.normalize`` gives 1e12 and more.

    What stays large comes from LayerNorms of tokens without variance, 1e3 each.
    """
    torch.manual_seed(0)
    model, x = TransNeXt(arch=SMALL, img_size=64), torch.randn(1, 3, 64, 64)
    x[..., 32:] = 0
    sum((out * torch.randn_like(out)).mean() for out in model(x)).backward()
    assert max(p.grad.abs().max() for p in model.parameters()) < 1e8


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
def test_autocast_survives_large_activations(dtype):
    torch.manual_seed(0)
    model = TransNeXt(arch=SMALL, img_size=64).train()
    stream = []
    for name, module in model.named_modules():
        if name.split('.')[-2:-1] == ['blocks']:
            module.register_forward_hook(lambda module, inputs, output: stream.append(output.dtype))
        if name.endswith(('.attn.q', '.attn.kv', '.attn.qkv')):
            module.weight.data.mul_(3e3)  # the squares of queries and keys overflow half precision
    with torch.autocast('cpu', dtype=dtype):
        outs = model(300 * torch.randn(2, 3, 96, 64))
    assert stream == 5 * [torch.float32]
    assert all(out.isfinite().all() for out in outs)
    sum(out.float().square().mean() for out in outs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_what_weight_decay_leaves_out():
    left = TransNeXt(arch=SMALL).no_weight_decay()
    assert {name.removeprefix('layers.0.blocks.0.attn.') for name in left if name.startswith('layers.0.')} == {
        'temperature', 'query_embedding', 'relative_pos_bias_local',
        'cpb_fc1.weight', 'cpb_fc1.bias', 'cpb_fc2.weight', 'cpb_fc2.bias',
    }  # fmt: skip


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(arch='large'), "unknown arch 'large'; known: micro, micro_aaaa, tiny, small, base, or a dict"),
        (dict(arch=dict(SMALL, sr_ratios=(8, 4, 2, 1))), "unknown keys 'sr_ratios'; known: dims, depths, num_heads, r"),
        (dict(arch=dict(SMALL, num_heads=(3, 2, 2, 3))), r'num_heads=\(3, 2, 2, 3\), expected divisors of .*\(8, 12,'),
        (dict(arch=dict(SMALL, ratios=(8, 4, 0, 1))), r'ratios=\(8, 4, 0, 1\), expected 4 positive numbers'),
        (dict(arch=dict(SMALL, pretrain_size=32)), 'pretrain_size=32, expected 64 px or more'),
        (dict(img_size=16), 'img_size=16, expected 32 px or more'),
        (dict(position_bias='exact'), "position_bias='exact', expected one of interpolated, extrapolated"),
    ],
    ids=lambda value: None if isinstance(value, str) else '-'.join(value),
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        TransNeXt(**{'arch': SMALL, **options})


@pytest.mark.parametrize('sizes', [(3, 3), (26, 31), (1, 1), (13, 5), (7, 30)])
def test_pooling_by_matrices_is_adaptive_pooling(sizes):
    """An export for any size has it."""
    x = torch.randn(2, 5, 26, 31, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows, columns = (_bins(side, count, x) for side, count in zip(x.shape[2:], sizes))
    torch.testing.assert_close(rows @ x @ columns.T, F.adaptive_avg_pool2d(x, sizes), rtol=1e-12, atol=1e-14)
