"""Spatial-Mamba against the authors' network, tensor by tensor, and what this package adds to it."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import nn

from mmbackbones.backbones import SpatialMamba
from mmbackbones.backbones.spatialmamba import StateFusedSSM
from mmbackbones.checkpoints.adapters.spatialmamba import convert_spatialmamba
from mmbackbones.checkpoints.layout import convert_whole_model
from mmbackbones.errors import InputError
from mmbackbones.layers.mlla_frame import MLLABlock
from mmbackbones.layers.state_fusion import DILATIONS, StateFusion
from tests.backbones.staged_cases import build_whole, check_published_keys, compare, load_case, whole_macs

CASES = ['square', 'nonsquare', 'odd_size', 'eps']
SMALL = dict(dims=(8, 12, 16, 24), depths=(1, 1, 2, 1))


def build_like(options):
    return SpatialMamba(arch=dict(dims=options['dims'], depths=options['depths']))


@pytest.mark.parametrize('name', CASES)
def test_golden(name, backend):
    case = load_case(f'spatialmamba_{name}')
    compare(build_like(case.options), case)


@pytest.mark.parametrize('change', ['border', 'fusion', 'order', 'stem_eps'])
def test_golden_rejects_another_network(change, monkeypatch):
    case = load_case('spatialmamba_eps')
    model = build_like(case.options)
    if change == 'border':
        pad = F.pad
        monkeypatch.setattr(F, 'pad', lambda x, size, mode: pad(x, size))
    elif change == 'fusion':
        monkeypatch.setitem(DILATIONS, 'kernel_3_2', 4)
    elif change == 'order':
        monkeypatch.setattr(StateFusedSSM, 'scan', lambda self, x: SpatialScan.backwards(self, x))
    else:
        model.patch_embed.conv1.norm.eps = 1e-3
    with pytest.raises(AssertionError, match='not close'):
        compare(model, case)


class SpatialScan:
    @staticmethod
    def backwards(mixer, x):
        """The scan from the last pixel, brought back."""
        return mixer.scan_fused(x.flip(2, 3), mixer.state_fusion).flip(1)


@pytest.mark.parametrize('name', SpatialMamba.archs)
def test_published_keys(name):
    check_published_keys(SpatialMamba, name, f'spatialmamba_{name}')


def authors_layout(weights):
    """Our keys as the authors name them, their single direction unstacked."""
    theirs = {}
    for key, value in weights.items():
        if key.endswith(('.x_proj_weight', '.dt_projs_weight', '.dt_projs_bias')):
            value = value.squeeze(0)
        for ours, name in (('.mixer.', '.self_attention.'), ('.norm1.', '.ln_1.'), ('.norm2.', '.ln_2.')):
            key = key.replace(ours, name)
        theirs[key] = value
    return theirs


def test_the_authors_whole_models_fit():
    """Detectors by mm's convention, with the output norms that classifiers lack."""
    weights = build_whole('det', SpatialMamba, SMALL).state_dict()
    theirs = {
        f'backbone.{key}': value
        for key, value in authors_layout({k.removeprefix('backbone.'): v for k, v in weights.items()}).items()
        if f'backbone.{key}' in weights or '.self_attention.' in key or '.ln_' in key
    }
    theirs |= {key: value for key, value in weights.items() if not key.startswith('backbone.')}
    assert theirs.keys() != weights.keys()
    converted = convert_whole_model(theirs, convert_spatialmamba)
    assert {key: value.shape for key, value in converted.items()} == {k: v.shape for k, v in weights.items()}


# Parameters in millions and MACs in G of detector and segmentor, in the authors' tables (README).
PUBLISHED = {'tiny': ((46, 261), (57, 936)), 'small': ((63, 315), (73, 992)), 'base': ((115, 494), (127, 1176))}


@pytest.mark.parametrize('arch', PUBLISHED)
def test_published_sizes(arch):
    for task, (millions, _) in zip(('det', 'seg'), PUBLISHED[arch]):
        assert round(sum(p.numel() for p in build_whole(task, SpatialMamba, arch).parameters()) / 1e6) == millions


@pytest.mark.parametrize('arch', ['tiny', *(pytest.param(arch, marks=pytest.mark.full) for arch in ('small', 'base'))])
def test_published_macs(arch):
    """Less than 1 G apart: two of the six are rounded down."""
    with torch.device('meta'):
        backbone = SpatialMamba(arch=arch)
    for (_, published), counted in zip(PUBLISHED[arch], whole_macs(backbone)):
        assert abs(counted - published) < 0.7


def test_drop_path_grows_linearly():
    model = SpatialMamba(arch=SMALL, drop_path_rate=0.4)
    rates = [m.drop_prob for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_what_weight_decay_leaves_out():
    blocks = [f'layers.{i}.blocks.{j}' for i, depth in enumerate(SMALL['depths']) for j in range(depth)]
    assert SpatialMamba(arch=SMALL).no_weight_decay() == {
        f'{block}.mixer.{name}' for block in blocks for name in ('A_logs', 'Ds')
    }


def test_initial_values():
    mixer = SpatialMamba(arch=SMALL).layers[0].blocks[0].mixer
    assert mixer.x_proj_weight.shape == (1, 3, 16) and (mixer.A_logs == 0).all() and (mixer.Ds == 1).all()
    assert all((parameter == 1).all() for parameter in mixer.state_fusion.parameters())
    step = F.softplus(mixer.dt_projs_bias)
    assert (step > 0.9e-3).all() and (step < 0.11).all()


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (1, 9), (7, 1), (12, 13)], ids=str)
def test_fusion_by_hand(size):
    """Sum over the taps, each clamped to the map, which may be smaller than the reach of the kernels."""
    torch.manual_seed(0)
    fusion = StateFusion(3).double()
    for parameter in fusion.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = torch.zeros_like(x)
    for alpha, (name, dilation) in zip(fusion.alpha, DILATIONS.items()):
        for i in range(3):
            for j in range(3):
                rows, columns = (
                    (torch.arange(side) + dilation * (tap - 1)).clamp(0, side - 1) for side, tap in zip(size, (i, j))
                )
                expected += alpha * getattr(fusion, name)[:, 0, i, j, None, None] * x[:, :, rows][..., columns]
    torch.testing.assert_close(fusion(x), expected)


def test_fusion_follows_its_parameters_in_eval_mode():
    """Nothing of the kernels is kept from an earlier forward."""
    torch.manual_seed(0)
    fusion, other, x = StateFusion(3).eval(), StateFusion(3), torch.randn(1, 3, 6, 7)
    nn.init.normal_(other.kernel_3)
    with torch.no_grad():
        first = fusion(x)
        fusion.load_state_dict(other.state_dict())
        assert (fusion(x) - first).abs().max() > 1e-3
        assert torch.equal(fusion(x), other(x))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
def test_autocast_survives_large_activations(dtype):
    """Steps up to 100 and states beyond half precision: finite, and states and residual stream stay float32."""
    torch.manual_seed(0)
    model = SpatialMamba(arch=SMALL).train()
    states, stream, half = [], [], []
    for module in model.modules():
        if isinstance(module, StateFusedSSM):
            module.dt_projs_bias.data.uniform_(-5, 100)
            module.Ds.data.fill_(1e5)
            module.A_logs.data.fill_(-9)
            module.in_proj.weight.data.normal_()
        elif isinstance(module, StateFusion):
            module.register_forward_hook(lambda module, inputs, output: states.append(output))
        elif isinstance(module, MLLABlock):
            module.register_forward_hook(lambda module, inputs, output: stream.append(output.dtype))
        elif isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: half.append(output.dtype))
    with torch.autocast('cpu', dtype=dtype):
        outs = model(300 * torch.randn(2, 3, 96, 64))
    assert stream == 5 * [torch.float32] and dtype in half
    assert {x.dtype for x in states} == {torch.float32} and max(x.abs().max() for x in states) > 65504
    assert all(out.isfinite().all() for out in outs)
    sum(out.float().square().mean() for out in outs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(arch='L1'), "SpatialMamba: unknown arch 'L1'; known: tiny, small, base, or a dict"),
        (dict(arch=dict(SMALL, d_state=2)), "unknown keys 'd_state'; known: dims, depths"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        SpatialMamba(**options)
