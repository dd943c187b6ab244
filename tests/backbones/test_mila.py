"""MILA against the authors' network, tensor by tensor, and what this package adds to it."""

import pytest
import torch
import torch.nn.functional as F

from mmbackbones.backbones import MILA
from mmbackbones.backbones.mila import PaddedDownsample
from mmbackbones.errors import InputError
from mmbackbones.layers import linear_attention
from mmbackbones.layers.mlla_frame import MLLADownsample
from tests.backbones.staged_cases import check_published_keys, compare, load_case, load_keys

SMALL = dict(dims=(8, 12, 16, 24), depths=(1, 1, 2, 1), num_heads=(2, 3, 4, 4))
TABLES = ('.rope.rotations',)


def build_like(options):
    same = {key: options[key] for key in ('depths', 'num_heads', 'mlp_ratio')}
    return MILA(arch=dict(dims=options['embed_dim'], **same))


@pytest.mark.parametrize('name', ['square', 'nonsquare', 'odd_size', 'eps'])
def test_golden(name):
    case = load_case(f'mila_{name}')
    compare(build_like(case.options), case)


@pytest.mark.parametrize('change', ['normalizer', 'layer norm', 'queries', 'padding'])
def test_golden_rejects_another_network(change, monkeypatch):
    case = load_case('mila_odd_size' if change == 'padding' else 'mila_eps')
    model = build_like(case.options)
    if change == 'normalizer':
        monkeypatch.setattr(linear_attention, 'NORMALIZER_EPS', 1e-5)
    elif change == 'layer norm':
        for layer in model.layers:
            layer.blocks[0].norm1.eps = 1e-6
    elif change == 'padding':
        monkeypatch.setattr(PaddedDownsample, 'forward', MLLADownsample.forward)
    else:
        for name, value in case.weights.items():
            if name.endswith('.attn.qk.weight'):
                case.weights[name] = torch.cat(value.chunk(2)[::-1])
    with pytest.raises(AssertionError, match='not close'):
        compare(model, case)


@pytest.mark.parametrize('name', MILA.archs)
def test_published_keys(name):
    check_published_keys(MILA, name, f'mila_{name}', TABLES)
    published = load_keys(f'mila_{name}')['kwargs']
    assert list(MILA.resolve_arch(name).num_heads) == published['num_heads']  # no shape tells them


def test_rotary_tables_are_those_of_the_authors():
    """(H, W, C / 2, 2), cosine and sine of each pair, for the image size of the training."""
    case = load_case('mila_square')
    tables = {key: value for key, value in case.weights.items() if key.endswith(TABLES)}
    assert len(tables) == 5
    for table in tables.values():
        ones = torch.zeros(1, *table.shape[:2], 2 * table.shape[2])
        ones[..., ::2] = 1
        turned = linear_attention.rotate(ones).unflatten(-1, (-1, 2))[0]
        torch.testing.assert_close(turned, table, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
def test_autocast_survives_large_activations(dtype, monkeypatch):
    torch.manual_seed(0)
    model = MILA(arch=SMALL).train()
    sums, stream = [], []
    inner = linear_attention.linear_attention

    def watch(q, k, v, num_heads, *, rotary):
        keys = F.elu(k.float()) + 1
        sums.append((keys.flatten(1, 2).transpose(1, 2) @ v.float().flatten(1, 2)).abs().max().item())
        return inner(q, k, v, num_heads, rotary=rotary)

    monkeypatch.setattr(linear_attention, 'linear_attention', watch)
    for name, module in model.named_modules():
        if name.endswith(('.in_proj', '.attn.qk')):
            module.weight.data.normal_(std=5)
        if name.split('.')[-2:-1] == ['blocks']:
            module.register_forward_hook(lambda module, inputs, output: stream.append(output.dtype))
    with torch.autocast('cpu', dtype=dtype):
        outs = model(300 * torch.randn(2, 3, 96, 64))
    assert stream == 5 * [torch.float32]
    assert len(sums) == 5 and max(sums) > 65504
    assert all(out.isfinite().all() for out in outs)
    sum(out.float().square().mean() for out in outs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_nothing_but_norms_is_spared_weight_decay():
    assert MILA(arch=SMALL).no_weight_decay() == set()


@pytest.mark.parametrize(
    'arch, message',
    [
        ('micro', "MILA: unknown arch 'micro'; known: tiny, small, base, or a dict"),
        (dict(SMALL, qkv_bias=True), "unknown keys 'qkv_bias'; known: dims, depths, num_heads, mlp_ratio"),
        (dict(SMALL, dims=(8, 14, 16, 24)), r'dims=\(8, 14, 16, 24\), expected multiples of 4'),
        (dict(SMALL, num_heads=(2, 3, 4)), r'num_heads=\(2, 3, 4\), expected divisors of 8, 12, 16, 24'),
        (dict(SMALL, num_heads=(3, 3, 4, 4)), 'expected divisors of'),
        (dict(SMALL, num_heads=(0, 3, 4, 4)), 'expected divisors of'),
    ],
    ids=str,
)
def test_bad_arch(arch, message):
    with pytest.raises(InputError, match=message):
        MILA(arch=arch)
