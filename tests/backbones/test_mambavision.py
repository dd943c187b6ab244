"""MambaVision against the authors' network, tensor by tensor, and what this package adds to it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmbackbones.backbones import MambaVision
from mmbackbones.backbones.mambavision import MambaVisionMixer
from mmbackbones.checkpoints.adapters.mambavision import convert_mambavision
from mmbackbones.errors import InputError
from mmbackbones.layers.mamba import DtProjection
from tests.backbones.staged_cases import TOLERANCE, load_case, load_keys, load_weights

SMALL = dict(dims=8, depths=(1, 1, 2, 1), stem_width=4, num_heads=(2, 4), d_state=4)
CASES = ['square', 'layerscale_nonsquare', 'window_over_map_odd_size', 'eps']


def build_like(options, **overrides):
    arch = dict(
        dims=options['dim'],
        depths=options['depths'],
        num_heads=options['num_heads'][2:],
        stem_width=options['in_dim'],
        layer_scale=options.get('layer_scale'),
    )
    return MambaVision(arch=arch, window_size=options['window_size'][2:], **overrides).eval()


@torch.no_grad()
def compare(model, case):
    """Every recorded tensor: stem, stages, downsamplings, normed maps, and the classifier put on top."""
    load_weights(model, case.weights)
    actual = {}

    def record(key):
        return lambda module, inputs, output: actual.__setitem__(key, output.permute(0, 3, 1, 2))

    model.patch_embed.register_forward_hook(record('patch_embed'))
    for i, stage in enumerate(model.layers):
        if stage.downsample is not None:
            stage.downsample.register_forward_hook(record(f'downsample.{i}'))
    run = model.run_blocks

    def run_and_record(i, x):
        y = run(i, x)
        actual[f'stage.{i}'] = y.permute(0, 3, 1, 2)
        return y

    model.run_blocks = run_and_record
    outs = model(case.tensors['x'])
    actual |= {f'out.{i}': out for i, out in enumerate(outs)}
    w = case.weights
    last = F.batch_norm(actual['stage.3'], *(w[f'norm.{n}'] for n in ('running_mean', 'running_var', 'weight', 'bias')))
    actual['pooled_norm'] = last.mean((2, 3))
    actual['logits'] = F.linear(actual['pooled_norm'], w['head.weight'], w['head.bias'])

    expected = {key for key in case.tensors if not key.startswith('state_dict') and key != 'x'}
    assert expected == actual.keys()
    for key, value in actual.items():
        torch.testing.assert_close(value, case.tensors[key], msg=lambda m, k=key: f'{k}: {m}', **TOLERANCE)


@pytest.mark.parametrize('name', CASES)
def test_golden(name, backend):
    case = load_case(f'mambavision_{name}')
    compare(build_like(case.options), case)


@pytest.mark.parametrize('change', ['step_bias', 'window', 'stem_eps'])
def test_golden_rejects_another_network(change):
    case = load_case('mambavision_' + ('eps' if change == 'stem_eps' else 'window_over_map_odd_size'))
    model = build_like(case.options, step_bias='exact' if change == 'step_bias' else 'official')
    if change == 'window':
        model.window_size = (7, 4)
    elif change == 'stem_eps':
        model.patch_embed[1].eps = 1e-5
    with pytest.raises(AssertionError, match='not close'):
        compare(model, case)


@pytest.mark.parametrize('name', MambaVision.archs)
def test_published_keys(name):
    published = load_keys(f'mambavision_{name}')
    with torch.device('meta'):
        model = MambaVision(arch=name, norm_cfg=None)
        weights = {key: torch.empty(shape) for key, shape in published['keys']}
    shapes = {key: value.shape for key, value in convert_mambavision(weights).items()}
    own = {key: value.shape for key, value in model.state_dict().items()}
    classifier = {key: value for key, value in weights.items() if key.startswith(('norm.', 'head.'))}
    assert {key: shape for key, shape in shapes.items() if key not in classifier} == own
    head = sum(value.numel() for key, value in classifier.items() if key not in published['buffers'])
    assert sum(p.numel() for p in model.parameters()) + head == published['num_parameters']
    for stage, heads in zip(model.layers, published['kwargs']['num_heads']):
        for block in stage.blocks:
            assert getattr(getattr(block, 'mixer', None), 'num_heads', heads) == heads


def test_own_names_pass_through():
    model = MambaVision(arch=SMALL)
    weights = model.state_dict()
    assert convert_mambavision(weights).keys() == weights.keys()


def test_initial_steps():
    """The general initialization of linear layers does not change the projection of ``dt``."""
    steps = [F.softplus(m.bias) for m in MambaVision(arch=SMALL).modules() if isinstance(m, DtProjection)]
    assert len(steps) == 2
    assert all((step > 0.9e-3).all() and (step < 0.11).all() for step in steps)


def test_windows_do_not_see_each_other():
    """A change in one window of stage 2 stays there; the convolutions before are left out."""
    torch.manual_seed(0)
    model = MambaVision(arch=SMALL, window_size=(4, 2)).eval()
    x = torch.randn(1, 6, 10, 32)
    y = x.clone()
    y[:, 1, 2] = torch.randn(32)
    with torch.no_grad():
        for parameter in model.layers[2].parameters():
            parameter.mul_(3)
        changed = (model.run_blocks(2, x) - model.run_blocks(2, y)).abs().amax((0, 3)) > 0
    assert changed[:4, :4].all()
    changed[:4, :4] = False
    assert changed.shape == (6, 10) and not changed.any()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
def test_autocast_survives_large_activations(dtype):
    torch.manual_seed(0)
    model = MambaVision(arch=SMALL).train()
    largest, stream = [], []
    for name, module in model.named_modules():
        if isinstance(module, MambaVisionMixer):
            module.dt_proj.bias.data.uniform_(-5, 100)
            module.D.data.fill_(1e3)
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: largest.append(output.abs().max().item()))
        if name.split('.')[-2:-1] == ['blocks']:
            module.register_forward_hook(lambda module, inputs, output: stream.append(output.dtype))
    with torch.autocast('cpu', dtype=dtype):
        outs = model(300 * torch.randn(2, 3, 96, 64))
    assert stream == 5 * [torch.float32]
    assert 500 < max(largest) < 65504
    assert all(out.isfinite().all() for out in outs)
    sum(out.float().square().mean() for out in outs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_what_weight_decay_leaves_out():
    assert MambaVision(arch=SMALL).no_weight_decay() == {
        f'layers.{i}.blocks.0.mixer.{name}' for i in (2, 3) for name in ('A_log', 'D')
    }


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(arch='L2'), "MambaVision: unknown arch 'L2'; known: tiny, tiny2, small, base, large, or a dict"),
        (dict(arch=dict(SMALL, in_dim=8)), "unknown keys 'in_dim'; known: dims, depths, num_heads, stem_width"),
        (dict(arch=dict(SMALL, num_heads=(3, 4))), r'num_heads=\(3, 4\), expected divisors of .* 32 and 64'),
        (dict(window_size=(8, 8, 14, 7)), 'expected two positive numbers'),
        (dict(window_size=(0, 7)), r'window_size=\(0, 7\), expected two positive'),
        (dict(step_bias='once'), "step_bias='once', expected one of official, exact"),
    ],
    ids=lambda value: None if isinstance(value, str) else '-'.join(value),
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        MambaVision(**{'arch': SMALL, **options})
