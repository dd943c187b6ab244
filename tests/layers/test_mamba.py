"""The Mamba mixer against the authors' block, and its directions against flips of the causal one."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file

from mmbackbones.errors import InputError
from mmbackbones.layers.mamba import DIRECTIONS, MambaMixer
from mmbackbones.ops.directional_scan import composed
from mmbackbones.ops.selective_scan import selective_scan_backend
from mmbackbones.ops.selective_scan.op import scan_op
from tests.conftest import golden

DIM, LENGTH = 24, 21


@pytest.fixture(params=['chunk', 'cpu'])
def backend(request, monkeypatch):
    monkeypatch.setenv('MMBACKBONES_SCAN_BACKEND', request.param)
    try:
        selective_scan_backend('cpu')
    except InputError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize('case', range(3))
def test_golden_block(case, backend):
    path = golden('mamba_block.safetensors')
    with safe_open(path, 'pt') as file:
        options = json.loads(file.metadata()['kwargs'])[case]
    tensors = load_file(path)
    tensors = {key.removeprefix(f'case{case}.'): x for key, x in tensors.items() if key.startswith(f'case{case}.')}
    options = {'dim': options.pop('d_model'), **options}
    mixer = MambaMixer(**options)
    mixer.load_state_dict({k.removeprefix('state_dict.'): x for k, x in tensors.items() if 'state_dict.' in k})

    x = tensors['x'].requires_grad_()
    y = mixer(x)
    torch.testing.assert_close(y, tensors['y'], atol=1e-5, rtol=1e-5)
    y.backward(tensors['dy'])
    gradients = dict(mixer.named_parameters(), x=x)
    assert {f'grad.{name}' for name in gradients} == {key for key in tensors if key.startswith('grad.')}
    for name, parameter in gradients.items():
        expected = tensors[f'grad.{name}']
        difference = (parameter.grad - expected).abs().max().item()
        assert difference <= 1e-5 + 1e-4 * expected.abs().max().item(), f'{name}: {difference}'


def flipped(mixer, x):
    return mixer(x.flip(1)).flip(1)


def causal_copy(mixer, suffix=''):
    """A causal mixer with the parameters of one branch."""
    twin = MambaMixer(DIM)
    own = mixer.state_dict()
    twin.load_state_dict(
        {
            name: own[name if name.startswith(('in_proj', 'out_proj')) else with_suffix(name, suffix)]
            for name in twin.state_dict()
        }
    )
    return twin


def with_suffix(name, suffix):
    head, dot, tail = name.partition('.')
    return head.replace('A_log', f'A{suffix}_log') + ('' if head == 'A_log' else suffix) + dot + tail


def random_mixer(**options):
    torch.manual_seed(0)
    mixer = MambaMixer(DIM, **options)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return mixer, torch.randn(2, LENGTH, DIM)


def test_forward_is_causal_and_backward_its_mirror():
    mixer, x = random_mixer()
    later = x.clone()
    later[:, 9:] += 1
    assert torch.equal(mixer(x)[:, :9], mixer(later)[:, :9])
    assert not torch.equal(mixer(x)[:, 9], mixer(later)[:, 9])

    mirror, _ = random_mixer(direction='backward')
    torch.testing.assert_close(mirror(x), flipped(mixer, x))


@pytest.mark.parametrize('divide_out', [False, True])
def test_ssm_conv_is_the_sum_of_two_causal_mixers(divide_out):
    mixer, x = random_mixer(direction='ssm_conv', divide_out=divide_out)
    expected = causal_copy(mixer)(x) + flipped(causal_copy(mixer, '_b'), x)
    torch.testing.assert_close(mixer(x), expected / 2 if divide_out else expected)


def test_ssm_shares_all_but_A():
    mixer, x = random_mixer(direction='ssm')
    names = {name for name, _ in mixer.named_parameters()} - {name for name, _ in MambaMixer(DIM).named_parameters()}
    assert names == {'A_b_log'}
    # With a convolution of one tap, whose mirror image is itself, the shared branch can be told apart by flips.
    mixer, x = random_mixer(direction='ssm', d_conv=1)
    one, two = (MambaMixer(DIM, d_conv=1) for _ in range(2))
    state = {name: value for name, value in mixer.state_dict().items() if name != 'A_b_log'}
    one.load_state_dict(state)
    two.load_state_dict({**state, 'A_log': mixer.A_b_log})
    torch.testing.assert_close(mixer(x), one(x) + flipped(two, x))


@pytest.mark.parametrize('length', [1, 2, 3])
@pytest.mark.parametrize('direction', DIRECTIONS)
def test_shorter_than_the_convolution(direction, length):
    mixer, x = random_mixer(direction=direction)
    assert mixer(x[:, :length]).shape == (2, length, DIM)


def test_initial_dt():
    torch.manual_seed(0)
    step = F.softplus(MambaMixer(512).dt_proj.bias)
    assert 1e-3 <= step.min() < 2e-3 and 0.05 < step.max() <= 0.1
    torch.testing.assert_close(MambaMixer(DIM).A_log.exp()[0], torch.arange(1, 17.0))


@pytest.mark.parametrize('dtype, scale', [(torch.bfloat16, 8), (torch.float16, 1)], ids=['bf16', 'fp16'])
def test_autocast_stays_finite(dtype, scale, monkeypatch, backend):
    """16k tokens whose steps reach 100 before softplus; in bf16 activations in the thousands on top of that."""
    mixer, _ = random_mixer(direction='ssm_conv', divide_out=True)
    intermediates = []

    def record(u, delta, A, B, C, *args):
        y, *rest = scan_op(u, delta, A, B, C, *args)
        assert u.dtype == delta.dtype == y.dtype == dtype
        intermediates.extend((u, delta, B, C, y))
        return y, *rest

    monkeypatch.setattr(composed, 'scan_op', record)
    x = torch.randn(1, 16384, DIM)
    with torch.no_grad():
        mixer.in_proj.weight *= scale
        for suffix in ('', '_b'):
            u = F.silu(getattr(mixer, f'conv1d{suffix}')(mixer.in_proj(x)[..., : 2 * DIM].transpose(1, 2)))
            dt = getattr(mixer, f'x_proj{suffix}')(u.transpose(1, 2))[..., : mixer.dt_rank]
            dt_proj = getattr(mixer, f'dt_proj{suffix}')
            dt_proj.weight *= 100 / F.linear(dt, dt_proj.weight).abs().max()
    with torch.autocast('cpu', dtype):
        y = mixer(x)
    y.float().square().mean().backward()
    largest = max(tensor.abs().max().item() for tensor in intermediates)
    assert largest > 90 and (largest < torch.finfo(torch.float16).max) == (dtype == torch.float16)
    assert y.isfinite().all()
    for name, parameter in mixer.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


def test_unknown_direction():
    with pytest.raises(InputError, match="direction='both', expected one of forward, backward, ssm, ssm_conv"):
        MambaMixer(DIM, direction='both')
