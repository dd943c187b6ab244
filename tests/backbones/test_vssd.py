"""VSSD against the authors' network, tensor by tensor, and what this package adds to it."""

import pytest
import torch
from torch import nn

from mmbackbones.backbones import VSSD
from mmbackbones.backbones.vssd import SSDMixer
from mmbackbones.errors import InputError
from tests.backbones.staged_cases import check_published_keys, compare, load_case, load_keys

SMALL = dict(dims=(8, 12, 16, 24), depths=(1, 1, 2, 1), num_heads=(2, 3, 4, 4), d_state=4)


def build_like(options):
    same = {key: options[key] for key in ('depths', 'num_heads', 'd_state', 'mlp_ratio')}
    return VSSD(arch=dict(dims=options['embed_dim'], **same))


@pytest.mark.parametrize('name', ['square', 'nonsquare', 'odd_size', 'eps'])
def test_golden(name):
    case = load_case(f'vssd_{name}')
    compare(build_like(case.options), case)


@pytest.mark.parametrize('change', ['skip', 'projections', 'inner eps', 'stem eps'])
def test_golden_rejects_another_network(change):
    case = load_case('vssd_eps')
    model = build_like(case.options)
    for name, value in case.weights.items():
        if change == 'skip' and name.endswith('.attn.D'):
            case.weights[name] = value + 1
        elif change == 'projections' and name.endswith('.attn.in_proj.weight'):
            case.weights[name] = value.flip(0)
    for module in model.modules():
        if change == 'inner eps' and isinstance(module, SSDMixer):
            module.norm.eps = 1e-6
    if change == 'stem eps':
        model.patch_embed.conv1.norm.eps = 1e-6
    with pytest.raises(AssertionError, match='not close'):
        compare(model, case)


@pytest.mark.parametrize('name', VSSD.archs)
def test_published_keys(name):
    check_published_keys(VSSD, name, f'vssd_{name}')
    published = load_keys(f'vssd_{name}')['kwargs']
    assert list(VSSD.resolve_arch(name).num_heads) == published['num_heads']  # no shape tells those of the attention


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
def test_autocast_survives_large_activations(dtype):
    torch.manual_seed(0)
    model = VSSD(arch=SMALL).train()
    largest, stream = [], []

    def watch(module, inputs, output):
        largest.append(inputs[0].abs().max().item())

    for name, module in model.named_modules():
        if isinstance(module, SSDMixer):
            module.in_proj.weight.data.normal_(std=10)
            module.conv2d.bias.data.fill_(30)
            module.norm.register_forward_hook(watch)
        if name.split('.')[-2:-1] == ['blocks']:
            module.register_forward_hook(lambda module, inputs, output: stream.append(output.dtype))
    with torch.autocast('cpu', dtype=dtype):
        outs = model(300 * torch.randn(2, 3, 96, 64))
    assert stream == 5 * [torch.float32]
    assert len(largest) == 4 and max(largest) > 65504
    assert all(out.isfinite().all() for out in outs)
    sum(out.float().square().mean() for out in outs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_what_weight_decay_leaves_out():
    blocks = ('0.blocks.0', '1.blocks.0', '2.blocks.0', '2.blocks.1')
    assert VSSD(arch=SMALL).no_weight_decay() == {f'layers.{b}.mixer.{name}' for b in blocks for name in ('A_log', 'D')}


@pytest.mark.parametrize(
    'arch, message',
    [
        ('nano', "VSSD: unknown arch 'nano'; known: micro, tiny, small, base, or a dict"),
        (dict(SMALL, expand=2), "unknown keys 'expand'; known: dims, depths, num_heads, d_state, mlp_ratio"),
        (dict(SMALL, num_heads=(2, 3, 4)), r'num_heads=\(2, 3, 4\), expected divisors of 16, 24, 32, 24'),
        (dict(SMALL, num_heads=(2, 3, 4, 16)), 'expected divisors of'),
        (dict(SMALL, num_heads=(0, 3, 4, 4)), 'expected divisors of'),
        (dict(SMALL, d_state=0), 'd_state=0, expected 1 or more'),
    ],
    ids=str,
)
def test_bad_arch(arch, message):
    with pytest.raises(InputError, match=message):
        VSSD(arch=arch)


def test_own_initialization_survives():
    """The general initialization of linear layers leaves the duality's parameters and the convolutions alone."""
    torch.manual_seed(0)
    mixers = [module for module in VSSD(arch=SMALL).modules() if isinstance(module, SSDMixer)]
    assert all((nn.functional.softplus(m.dt_bias) <= 0.1001).all() and (m.A_log >= 0).all() for m in mixers)
    assert all(m.conv2d.weight.abs().max() > 0.2 and m.in_proj.weight.abs().max() < 0.1 for m in mixers)
