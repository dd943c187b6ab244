"""MambaOut against the authors' numbers and key lists, and its surface as a dense backbone."""

import json

import pytest
import timm
import torch
from timm.layers import DropPath
from torch.nn.functional import layer_norm

from mmbackbones.backbones import MambaOut
from mmbackbones.errors import InputError
from mmbackbones.registry import MODELS
from tests.conftest import golden, golden_tensors

CASES = ['mambaout_small_nonsquare', 'mambaout_odd_size', 'mambaout_eps']
NAMES = ['femto', 'kobe', 'tiny', 'small', 'base']
TOLERANCE = dict(atol=5e-5, rtol=1e-4)
SMALL = dict(depths=(1, 2, 3, 1), dims=(16, 24, 32, 40))


def read_case(name):
    """Tensors of a golden case, the official state dict, and the architecture."""
    tensors, metadata = golden_tensors(f'{name}.safetensors')
    kwargs = json.loads(metadata['kwargs'])
    weights = {
        key.removeprefix('state_dict.'): tensors.pop(key) for key in list(tensors) if key.startswith('state_dict.')
    }
    return tensors, weights, dict(depths=kwargs['depths'], dims=kwargs['dims'])


@pytest.mark.parametrize('name', CASES)
def test_golden(name, tmp_path):
    tensors, weights, arch = read_case(name)
    torch.save(weights, tmp_path / 'official.pth')
    model = MambaOut(
        arch=arch,
        norm_cfg=None,
        init_cfg=dict(type='mmbackbones.Pretrained', checkpoint=str(tmp_path / 'official.pth')),
    )
    model.init_weights()
    model.eval()
    down = []
    for module in (model.stem, *(stage.downsample for stage in model.stages[1:])):
        module.register_forward_hook(lambda _, args, out: down.append(out.permute(0, 3, 1, 2)))
    with torch.no_grad():
        feats = model(tensors['x'])
    assert len(feats) == len(down) == 4
    for i in range(4):
        torch.testing.assert_close(down[i], tensors[f'down.{i}'], **TOLERANCE, msg=f'down.{i}: '.__add__)
        torch.testing.assert_close(feats[i], tensors[f'feat.{i}'], **TOLERANCE, msg=f'feat.{i}: '.__add__)


@pytest.mark.parametrize('name', NAMES)
def test_published_keys(name):
    """Every key of the authors' model has its place and shape here, or is of the head; nothing else is asked for."""
    published = json.loads(golden(f'keys_mambaout_{name}.json').read_text())
    with torch.device('meta'):
        model = MambaOut(arch=name)
        classifier = timm.create_model(f'mambaout_{name}')
        weights = {key: torch.empty(shape) for key, shape in published['keys']}
    converted = {key: tuple(value.shape) for key, value in model.convert_state_dict(weights).items()}
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert len(converted) == published['num_state_dict_entries']
    assert {key: own.get(key) for key in converted if not key.startswith(model.allowed_unexpected)} == {
        key: shape for key, shape in converted.items() if not key.startswith('head.')
    }
    assert [key for key in own if key not in converted] == [
        f'outnorm{i}.{part}' for i in range(4) for part in ('weight', 'bias')
    ]
    assert converted == {key: tuple(value.shape) for key, value in classifier.state_dict().items()}
    assert sum(p.numel() for p in classifier.parameters()) == published['num_parameters']
    assert model.out_channels == tuple(published['dims']) and model.depths == tuple(published['depths'])


def test_registered_for_mmdet_and_mmseg():
    from mmdet.registry import MODELS as MMDET
    from mmseg.registry import MODELS as MMSEG

    for registry in (MODELS, MMDET, MMSEG):
        assert isinstance(registry.build(dict(type='mmbackbones.MambaOut', arch=SMALL)), MambaOut)


@pytest.mark.parametrize('size', [(64, 64), (75, 109), (33, 32), (4, 4), (5, 201)], ids=str)
def test_any_size(size):
    model = MambaOut(arch=SMALL).eval()
    with torch.no_grad():
        outs = model(torch.randn(2, 3, *size))
    sides = []
    for stride in model.out_strides:
        sides.append(tuple(-(-side // stride) for side in size))
    assert [tuple(out.shape) for out in outs] == [
        (2, channels, *side) for channels, side in zip(model.out_channels, sides)
    ]
    assert all(out.is_contiguous() for out in outs)


def test_outputs_are_normalized_unless_told_not_to():
    torch.manual_seed(0)
    model = MambaOut(arch=SMALL).eval()
    for module in (model.stem, model.stages):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    raw = MambaOut(arch=SMALL, norm_cfg=None).eval()
    raw.load_state_dict(model.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for out, plain in zip(model(x), raw(x)):
            normalized = layer_norm(plain.permute(0, 2, 3, 1), plain.shape[1:2], eps=1e-6).permute(0, 3, 1, 2)
            torch.testing.assert_close(out, normalized)
            assert (out - plain).abs().max() > 1e-2
    assert not any(key.startswith('outnorm') for key in raw.state_dict())
    batch_norm = MambaOut(arch=SMALL, norm_cfg=dict(type='BN'))
    batch_norm(x)
    assert batch_norm.outnorm0.running_mean.abs().max() > 0


def test_subset_of_stages_builds_no_later_ones():
    torch.manual_seed(0)
    whole = MambaOut(arch=SMALL).eval()
    part = MambaOut(arch=SMALL, out_indices=(0, 2)).eval()
    assert len(part.stages) == 3 and part.out_channels == (16, 32) and part.out_strides == (4, 16)
    assert 'stages.3.' in part.allowed_unexpected
    part.load_state_dict({key: value for key, value in whole.state_dict().items() if key in part.state_dict()})
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        outs, all_outs = part(x), whole(x)
    for out, index in zip(outs, (0, 2)):
        torch.testing.assert_close(out, all_outs[index], rtol=0, atol=0)


@pytest.mark.parametrize('frozen', [-1, 0, 2, 4])
def test_frozen_stages(frozen):
    model = MambaOut(arch=SMALL, frozen_stages=frozen)
    expected = {
        name
        for name, _ in model.named_parameters()
        if (name.startswith('stem.') and frozen >= 0) or name.startswith(tuple(f'stages.{i}.' for i in range(frozen)))
    }
    for step in (lambda: None, model.init_weights, model.train, model.eval, model.train):
        step()
        assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == expected
        assert model.stem.training == (frozen < 0 and model.training)
    sum(out.sum() for out in model(torch.randn(1, 3, 32, 32))).backward()
    assert all((parameter.grad is None) == (name in expected) for name, parameter in model.named_parameters())


def test_drop_path_grows_linearly_over_all_blocks():
    model = MambaOut(arch=SMALL, drop_path_rate=0.6)
    rates = [
        block.drop_path.drop_prob if isinstance(block.drop_path, DropPath) else 0.0
        for stage in model.stages
        for block in stage.blocks
    ]
    assert rates == pytest.approx([0.6 * i / 6 for i in range(7)])
    assert not any(isinstance(module, DropPath) for module in MambaOut(arch=SMALL).modules())


def test_layer_depth():
    model = MambaOut(arch=SMALL)
    depths = {name: model.get_layer_depth(f'backbone.{name}', 'backbone.')[0] for name, _ in model.named_parameters()}
    assert model.get_layer_depth('stem.conv1.weight')[1] == 9
    assert depths['stem.conv1.weight'] == 0 and depths['stages.0.blocks.0.fc1.weight'] == 1
    assert depths['stages.1.downsample.conv.weight'] == depths['stages.1.blocks.0.fc1.weight'] == 2
    assert depths['stages.3.blocks.0.fc2.bias'] == 7 and depths['outnorm3.weight'] == 8
    assert set(depths.values()) == set(range(9))


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(arch='huge'), "unknown arch 'huge'; known: .*femto.*or a dict"),
        (dict(arch=dict(widths=(1, 2))), 'widths'),
        (dict(out_indices=(0, 4)), r'out_indices=\(0, 4\), expected ascending stages out of 0\.\.3'),
        (dict(frozen_stages=5), 'frozen_stages=5, but there are 4 stages'),
    ],
    ids=str,
)
def test_bad_options(kwargs, message):
    with pytest.raises(InputError, match=f'MambaOut: .*{message}'):
        MambaOut(**{'arch': SMALL, **kwargs})
