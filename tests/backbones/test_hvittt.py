"""H-ViT3 against the authors' network, tensor by tensor, and what this package adds to it."""

import pytest
import torch
import torch.nn.functional as F

import mmbackbones.backbones.hvittt as module
from mmbackbones.analysis.complexity.count import count_module
from mmbackbones.backbones import HViTTT
from mmbackbones.backbones.hvittt import PadToMultiple, TestTimeTraining
from mmbackbones.checkpoints.adapters.hvittt import convert_hvittt
from mmbackbones.errors import InputError
from mmbackbones.layers.rotation import rotation_of
from tests.backbones.recording import assert_close, recorded
from tests.backbones.staged_cases import load_case, load_keys, load_weights, record

SMALL = dict(dims=(8, 12, 16, 24), depths=(1, 1, 2, 1), num_heads=(2, 3, 2, 2), mlp_ratio=2)
CASES = ['square', 'nonsquare', 'heads8_nonsquare', 'odd_size', 'eps']
FIRST_CALL = {f'out_first_call.{i}' for i in range(4)}


def build_like(options):
    arch = {key: options[key] for key in ('depths', 'num_heads', 'mlp_ratio')}
    return HViTTT(arch=dict(arch, dims=options['dim'])).eval()


def run(case):
    """All recorded tensors of ours, the classifier's top among them."""
    actual, w = record(build_like(case.options), case), case.weights
    norm = (w[f'norm.{name}'] for name in ('running_mean', 'running_var', 'weight', 'bias'))
    pooled = F.batch_norm(actual['stage.3'], *norm).mean((2, 3))
    return actual | {'pooled_norm': pooled, 'logits': F.linear(pooled, w['head.weight'], w['head.bias'])}


@pytest.mark.parametrize('name', CASES)
def test_golden(name):
    """But for the dense copy's very first pass, which is another network."""
    case = load_case(f'hvittt_{name}')
    actual, expected = run(case), recorded(case) - FIRST_CALL
    if name == 'heads8_nonsquare':  # the dense copy has heads of 32 channels only
        actual = {key: x for key, x in actual.items() if not key.startswith('out.')}
    assert actual.keys() == expected
    assert_close(actual, case)
    for key in recorded(case) & FIRST_CALL:
        assert (actual[key.replace('_first_call', '')] - case.tensors[key]).abs().max() > 0.1


@pytest.mark.parametrize(
    ('change', 'name'),
    [
        ('no padding of odd maps', 'odd_size'),
        ('no rotation', 'nonsquare'),
        ('axes exchanged', 'nonsquare'),
        ('no clip', 'nonsquare'),
        ('another scale', 'square'),
        ('eps', 'eps'),
    ],
)
def test_golden_rejects_another_network(change, name, monkeypatch):
    case = load_case(f'hvittt_{name}')
    if change == 'no padding of odd maps':
        monkeypatch.setattr(PadToMultiple, 'forward', lambda self, x: x)
    elif change == 'no rotation':
        monkeypatch.setattr(module, 'rotate', lambda x, rotation: x)
    elif change == 'axes exchanged':
        monkeypatch.setattr(
            module,
            'rotate',
            lambda x, rotation, of=module.rotate: of(x.roll(x.shape[-1] // 2, -1), rotation).roll(
                -x.shape[-1] // 2, -1
            ),
        )
    elif change == 'no clip':
        monkeypatch.setattr('mmbackbones.layers.ttt._clip', lambda gradient, dim: gradient)
    elif change == 'another scale':
        monkeypatch.setattr('mmbackbones.layers.ttt.SCALE', 32**-0.5)
    else:
        monkeypatch.setattr(F, 'layer_norm', lambda *args, of=F.layer_norm: of(*args[:4], 1e-6))
    actual = run(case)
    with pytest.raises(AssertionError, match='not close'):
        assert_close({key: actual[key] for key in actual if key in case.tensors}, case)


@pytest.mark.parametrize('name', HViTTT.archs)
def test_published_keys(name):
    published = load_keys(f'hvittt_{name}')
    with torch.device('meta'):
        model = HViTTT(arch=name, norm_cfg=None)
        weights = {key: torch.empty(shape) for key, shape in published['keys']}
    classifier = {key: x for key, x in weights.items() if key.startswith(('norm.', 'head.'))}
    shapes = {key: x.shape for key, x in convert_hvittt(weights).items() if key not in classifier}
    assert shapes == {key: x.shape for key, x in model.state_dict().items()}
    head = sum(x.numel() for key, x in classifier.items() if key not in published['buffers'])
    assert sum(p.numel() for p in model.parameters()) + head == published['num_parameters']
    options = published['kwargs']
    assert [stage.blocks[0].attn.w1.shape[1] for stage in model.layers] == options['num_heads']
    assert model.arch.mlp_ratio == options['mlp_ratio']


def test_dense_checkpoints_load():
    """The norms of their detectors are ours, their unused table of rotations is left out."""
    model = HViTTT(arch=SMALL)
    weights = {
        key.replace('outnorm', 'norm').replace('.mlp.dwconv.', '.mlp.dwc.'): x for key, x in model.state_dict().items()
    }
    weights['layers.0.blocks.0.attn.rope.rotations'] = torch.zeros(4, 4, 4, 2)
    assert convert_hvittt(weights).keys() == model.state_dict().keys()
    load_weights(model, weights)


@pytest.mark.parametrize('grid', [(1, 1), (1, 7), (5, 3)], ids=str)
def test_every_token_reaches_every_token(grid):
    """Through both branches of the layer, by the input's gradient, for maps of any size."""
    torch.manual_seed(0)
    layer, rotation = TestTimeTraining(8, 2), rotation_of(grid, 8, torch.device('cpu'))
    for p in layer.parameters():
        p.data.normal_()
    x = torch.randn(1, *grid, 8, requires_grad=True)
    y = layer(x, rotation)
    reach = torch.stack([torch.autograd.grad(out.sum(), x, retain_graph=True)[0][0] for out in y.flatten(1, 2)[0]])
    assert (reach.abs().amax(-1) > 0).all()


def test_images_of_a_batch_learn_by_themselves():
    torch.manual_seed(0)
    model, x = HViTTT(arch=SMALL).eval(), torch.randn(3, 3, 40, 56)
    with torch.no_grad():
        for i, out in enumerate(model(x)):
            for j in range(3):
                torch.testing.assert_close(model(x[j : j + 1])[i][0], out[j], atol=1e-5, rtol=1e-4)


def test_cost_grows_linearly():
    model = HViTTT(arch=SMALL, out_indices=(0,)).eval()
    one, two = (sum(count_module(model, torch.empty(1, 3, 32, w)).macs['Global'].values()) for w in (32, 64))
    assert two == 2 * one > 0


def test_autocast_sums_over_tokens_in_float32(monkeypatch):
    """Also those of activations that half precision cannot hold; the residual stream stays float32."""
    torch.manual_seed(0)
    model, seen, stream = HViTTT(arch=SMALL).train(), [], []
    for name in ('learn_gated', 'learn_depthwise'):
        learn = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, learn=learn: seen.append(learn(*args)) or seen[-1])
    for stage in model.layers:
        for block in stage.blocks:
            block.register_forward_hook(lambda module, inputs, output: stream.append(output.dtype))
    with torch.autocast('cpu', torch.bfloat16):
        outs = model(300 * torch.randn(2, 3, 96, 64))
    assert [y.dtype for y in seen] == 10 * [torch.float32] and stream == 5 * [torch.float32]
    sum(out.float().square().mean() for out in outs).backward()
    assert all(out.isfinite().all() for out in outs)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_bfloat16_stays_near_float32():
    case = load_case('hvittt_eps')
    model = build_like(case.options)
    load_weights(model, case.weights)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        outs = model(case.tensors['x'])
    for i, out in enumerate(outs):
        assert (out - case.tensors[f'out.{i}']).abs().mean() < 0.05 * case.tensors[f'out.{i}'].abs().mean()


def test_what_weight_decay_leaves_out():
    assert HViTTT(arch=SMALL).no_weight_decay() == set()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(arch='large'), "HViTTT: unknown arch 'large'; known: tiny, small, base, or a dict"),
        (dict(arch=dict(SMALL, num_heads=(2, 3, 3, 2))), r'num_heads=\(2, 3, 3, 2\), expected a divisor of each of'),
        (dict(arch=dict(SMALL, num_heads=(2, 3, 2))), r'num_heads=\(2, 3, 2\), expected a divisor of each of'),
        (dict(arch=dict(SMALL, dims=(8, 12, 16, 26))), 'expected multiples of 4'),
        (dict(arch=dict(dims=8, depths=(1, 1, 1, 1))), "arch lacks 'num_heads'"),
    ],
    ids=str,
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message) as error:
        HViTTT(**options)
    assert '\n' not in str(error.value)
