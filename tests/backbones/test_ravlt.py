"""RAVLT against the authors' network, tensor by tensor, and what this package adds to it."""

import pytest
import torch
import torch.nn.functional as F

import mmbackbones.backbones.ravlt as module
from mmbackbones.analysis.complexity.count import count_module
from mmbackbones.backbones import RAVLT
from mmbackbones.backbones.ravlt import GatedAttention, rank_augmented_attention, softmax_attention
from mmbackbones.checkpoints.adapters.ravlt import convert_ravlt
from mmbackbones.errors import InputError
from mmbackbones.layers.rotation import rotation_of
from tests.backbones.recording import assert_close, recorded
from tests.backbones.staged_cases import load_case, load_keys, load_weights, record

SMALL = dict(dims=(8, 12, 16, 24), depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2), ffn_ratio=2)
CASES = ['square', 'nonsquare', 'odd_size', 'eps']


def build_like(options):
    arch = dict(
        dims=options['embed_dims'],
        depths=options['depths'],
        num_heads=options['num_heads'],
        layer_scale=options['layer_init_values'],
        ffn_ratio=options['mlp_ratios'][0],
    )
    return RAVLT(arch=arch).eval()


def run(case, model):
    """All recorded tensors of ours, the classifier's top among them."""
    actual, w = record(model, case), case.weights
    x = F.conv2d(actual['stage.3'], w['proj.weight'], w['proj.bias'])
    norm = (w[f'norm.{name}'] for name in ('running_mean', 'running_var', 'weight', 'bias'))
    pooled = F.silu(F.batch_norm(x, *norm)).mean((2, 3))
    return actual | {'pooled': pooled, 'logits': F.linear(pooled, w['head.weight'].flatten(1), w['head.bias'])}


@pytest.mark.parametrize('name', CASES)
def test_golden(name):
    case = load_case(f'ravlt_{name}')
    actual = run(case, build_like(case.options))
    assert actual.keys() == recorded(case)
    assert_close(actual, case)


@pytest.mark.parametrize(
    ('change', 'name'),
    [
        ('linear everywhere', 'nonsquare'),
        ('no rank augmentation', 'nonsquare'),
        ('last frequency left out', 'nonsquare'),
        ('normaliser', 'eps'),
        ('tokens counted once', 'eps'),
        ('eps', 'eps'),
    ],
)
def test_golden_rejects_another_network(change, name, monkeypatch):
    case = load_case(f'ravlt_{name}')
    model = build_like(case.options)
    if change == 'linear everywhere':
        for stage in model.layers:
            for block in stage.blocks:
                block.attn.attend = rank_augmented_attention
    elif change == 'no rank augmentation':
        monkeypatch.setattr(torch.Tensor, 'softmax', lambda x, dim: torch.full_like(x, 1 / x.shape[dim]))
    elif change == 'last frequency left out':
        monkeypatch.setattr(module, 'rotation_of', lambda *args, include_slowest: rotation_of(*args))
    elif change == 'normaliser':
        monkeypatch.setattr(module, 'EPS', 1e-5)
    elif change == 'tokens counted once':
        softmax = torch.Tensor.softmax
        monkeypatch.setattr(torch.Tensor, 'softmax', lambda x, dim: softmax(x, dim) / x.shape[dim])
    else:
        monkeypatch.setattr(F, 'layer_norm', lambda *args, of=F.layer_norm: of(*args[:4], 1e-5))
    with pytest.raises(AssertionError, match='not close'):
        assert_close(run(case, model), case)


@pytest.mark.parametrize('name', RAVLT.archs)
def test_published_keys(name):
    published = load_keys(f'ravlt_{name}')
    with torch.device('meta'):
        model = RAVLT(arch=name, norm_cfg=None)
        weights = {key: torch.empty(shape) for key, shape in published['keys']}
    classifier = {key: x for key, x in weights.items() if key.startswith(('proj.', 'norm.', 'head.'))}
    shapes = {key: x.shape for key, x in convert_ravlt(weights).items() if key not in classifier}
    assert shapes == {key: x.shape for key, x in model.state_dict().items()}
    head = sum(x.numel() for key, x in classifier.items() if key not in published['buffers'])
    assert sum(p.numel() for p in model.parameters()) + head == published['num_parameters']
    options = published['kwargs']
    assert [stage.blocks[0].attn.head_dim for stage in model.layers] == [
        dim // heads for dim, heads in zip(options['embed_dims'], options['num_heads'])
    ]
    assert list(model.arch.layer_scale) == options['layer_init_values']
    kinds = dict(linear=rank_augmented_attention, softmax=softmax_attention)
    for stage, kind in zip(model.layers, options['attention_of_the_stages']):
        assert all(block.attn.attend is kinds[kind] for block in stage.blocks)


def test_dense_checkpoints_load():
    """With the norms of their detectors, and without the frequencies, which are the same in every file."""
    case = load_case('ravlt_eps')
    model = build_like(case.options)
    load_weights(model, case.weights)
    for i in range(4):
        assert torch.equal(getattr(model, f'outnorm{i}').weight, case.weights[f'extra_norms.{i}.norm.weight'])
    for i, heads in enumerate(case.options['num_heads']):
        count = case.options['embed_dims'][i] // heads // 4
        bands = 10000.0 ** -torch.linspace(0, 1, count)
        torch.testing.assert_close(case.weights[f'layers.{i}.RoPE.angle'][::2], bands)


@pytest.mark.parametrize('linear', [True, False], ids=['linear', 'softmax'])
@pytest.mark.parametrize('grid', [(1, 1), (1, 7), (5, 3)], ids=str)
def test_every_token_reaches_every_token(linear, grid):
    """By the input's gradient, for maps of any size."""
    torch.manual_seed(0)
    layer = GatedAttention(8, 2, linear)
    rotation = rotation_of(grid, 4, torch.device('cpu'), include_slowest=True)
    x = torch.randn(1, *grid, 8, requires_grad=True)
    y = layer(x, rotation)
    reach = torch.stack([torch.autograd.grad(out.sum(), x, retain_graph=True)[0][0] for out in y.flatten(1, 2)[0]])
    assert (reach.abs().amax(-1) > 0).all()


def test_rank_augmented_attention_is_a_weighted_mean():
    """Without rotation each output is a mean of the values, by the definition written with N x N weights."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 11, 8, dtype=torch.float64)
    still = torch.zeros(11, 8, dtype=torch.float64), torch.ones(11, 8, dtype=torch.float64)
    qe, ke = F.elu(q) + 1, F.elu(k) + 1
    weights = torch.softmax(torch.einsum('bhnd,bhd->bhn', ke, qe.mean(2)) * 8**-0.5, dim=-1)
    scores = torch.einsum('bhnd,bhmd,bhm->bhnm', qe, ke, weights)
    expected = scores / scores.sum(-1, keepdim=True) @ v
    torch.testing.assert_close(rank_augmented_attention(q, k, v, still), expected, atol=1e-5, rtol=1e-5)


def test_linear_stages_cost_grows_linearly():
    model = RAVLT(arch=SMALL, out_indices=(0,)).eval()
    one, two = (sum(count_module(model, torch.empty(1, 3, 32, w)).macs['Global'].values()) for w in (32, 64))
    assert two == 2 * one > 0


def test_linear_attention_sums_in_float32():
    """The only errors are those of rounding the arguments; bfloat16 sums would lose most of 16,384 tokens."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 128**2, 8).bfloat16()
    rotation = rotation_of((128, 128), 8, torch.device('cpu'), include_slowest=True)
    with torch.autocast('cpu', torch.bfloat16):
        y = rank_augmented_attention(q, k, v, rotation)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, rank_augmented_attention(q.float(), k.float(), v.float(), rotation))


def test_autocast_survives_large_activations():
    torch.manual_seed(0)
    model, stream = RAVLT(arch=SMALL).train(), []
    for stage in model.layers:
        for block in stage.blocks:
            block.register_forward_hook(lambda module, inputs, output: stream.append(output.dtype))
    with torch.autocast('cpu', torch.bfloat16):
        outs = model(300 * torch.randn(2, 3, 96, 64))
    assert stream == 5 * [torch.float32]
    sum(out.float().square().mean() for out in outs).backward()
    assert all(out.isfinite().all() for out in outs)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_what_weight_decay_leaves_out():
    assert RAVLT(arch=SMALL).no_weight_decay() == set()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='huge'), "RAVLT: unknown arch 'huge'; known: tiny, small, base, large, or a dict"),
        (dict(arch=dict(SMALL, num_heads=(1, 2, 2, 2))), 'expected numbers that divide dims=.* into multiples of 4'),
        (dict(arch=dict(SMALL, layer_scale=(1, 1))), r'layer_scale=\(1, 1\), expected 4 numbers'),
        (dict(arch=dict(dims=8, depths=(1, 1, 1, 1))), "arch lacks 'num_heads'"),
    ],
    ids=str,
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message) as error:
        RAVLT(**options)
    assert '\n' not in str(error.value)
