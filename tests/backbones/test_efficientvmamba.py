"""EfficientVMamba against the authors' network, tensor by tensor, and what this package adds to it."""

import pytest
import torch
from torch import nn

from mmbackbones.backbones import EfficientVMamba
from mmbackbones.backbones.efficientvmamba import SkipSS2D
from mmbackbones.errors import InputError
from tests.backbones.staged_cases import (
    build_whole,
    check_published_keys,
    compare,
    load_case,
    whole_macs,
)

SMALL = dict(dims=(8, 16, 16, 24), depths=(1, 1, 2, 1), d_state=4)


def build_like(options):
    return EfficientVMamba(arch=dict(dims=options['dims'], depths=options['depths'], d_state=options['d_state']))


@pytest.mark.parametrize('name', ['square', 'nonsquare', 'odd_size', 'eps'])
def test_golden(name, backend):
    case = load_case(f'efficientvmamba_{name}')
    compare(build_like(case.options), case)


@pytest.mark.parametrize('key, order', [('.x_proj_weight', [0, 2, 1, 3]), ('.se.norm.bias', None)])
def test_golden_rejects_other_weights(key, order):
    case = load_case('efficientvmamba_nonsquare')
    for name, value in case.weights.items():
        if name.endswith(key):
            case.weights[name] = value + 1 if order is None else value[order]
    with pytest.raises(AssertionError, match='not close'):
        compare(build_like(case.options), case)


@pytest.mark.parametrize('name', EfficientVMamba.archs)
def test_published_keys(name):
    check_published_keys(EfficientVMamba, name, f'efficientvmamba_{name}')


def test_published_sizes_and_macs():
    """Base in MambaOut's Tables 2 and 3: 53 M and 252 G, 65 M and 930 G."""
    for task, millions in (('det', 53), ('seg', 65)):
        parameters = build_whole(task, EfficientVMamba, 'base').parameters()
        assert round(sum(p.numel() for p in parameters) / 1e6) == millions
    assert tuple(map(round, whole_macs(EfficientVMamba(arch='base')))) == (252, 930)


def test_a_group_sees_only_itself():
    """The scan alone keeps the four interleaved quarters apart."""
    torch.manual_seed(0)
    op = SkipSS2D(8, d_state=4)
    x = torch.randn(1, 16, 5, 7, requires_grad=True)
    y = op.scan(x).transpose(1, 2).unflatten(2, (5, 7))
    y[..., 1::2, 0::2].sum().backward()
    reached = x.grad.abs().sum((0, 1)) > 0
    assert reached[1::2, 0::2].all()
    reached[1::2, 0::2] = False
    assert not reached.any()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
def test_autocast_survives_large_activations(dtype):
    torch.manual_seed(0)
    model = EfficientVMamba(arch=SMALL).train()
    largest, stream = [], []

    def watch(module, inputs, output):
        if output.dtype == dtype:
            largest.append(output.abs().max().item())

    for name, module in model.named_modules():
        if isinstance(module, SkipSS2D):
            module.dt_projs_bias.data.uniform_(-5, 100)
            module.Ds.data.fill_(1e5)
            module.in_proj.weight.data.normal_()
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(watch)
        if name.split('.')[-2:-1] == ['blocks']:
            module.register_forward_hook(lambda module, inputs, output: stream.append(output.dtype))
    with torch.autocast('cpu', dtype=dtype):
        outs = model(300 * torch.randn(2, 3, 96, 64))
    assert stream == 5 * [torch.float32]
    assert len(largest) > 15 and max(largest) < 65504
    assert all(out.isfinite().all() for out in outs)
    sum(out.float().square().mean() for out in outs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_bad_arch():
    with pytest.raises(InputError, match=r'EfficientVMamba: unknown arch .large.; known: tiny, small, base, or a dict'):
        EfficientVMamba(arch='large')
    with pytest.raises(InputError, match="unknown keys 'ssm_d_state'; known: dims, depths, d_state"):
        EfficientVMamba(arch=dict(SMALL, ssm_d_state=8))
