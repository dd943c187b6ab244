"""Every family as a file for other runtimes: the same maps as PyTorch's, at a fixed and at any size."""

import json

import onnx
import pytest
import torch
from torch import nn

from mmbackbones.backbones.base import Backbone
from mmbackbones.errors import InputError
from mmbackbones.ops.selective_scan import selective_scan
from mmbackbones.registry import MODELS
from mmbackbones.release import command_line, formats
from mmbackbones.release.export import _normalization
from mmbackbones.release.formats import export_backbone
from mmbackbones.release.scan import STEPS, decomposed_scan
from tests.backbones.test_registry import ROWS, build
from tests.conftest import ROOT

# A trace takes seconds for each scan: where one stage or block shows all that a family does, it is alone.
FIRST_STAGE = ('EfficientVMamba', 'LocalVMamba', 'VMamba')
PLAIN = ('IsotropicMixerNet', 'LocalVim', 'Mamba', 'PlainMamba', 'Vim')
ALWAYS = ('MambaOut', 'VMamba')  # the other families under `full`: minutes
SEGMENTOR = 'configs/quickstart/upernet_1xb8-500_shapes-ade20k-128x128.py'


def network(name: str) -> Backbone:
    config, _ = ROWS[name]
    cut = config['type'] in FIRST_STAGE or (config['type'] in PLAIN and 0 in config.get('out_indices', ()))
    return build(config, **(dict(out_indices=(0,)) if cut else {}))


def families(kind: str) -> list:
    return [pytest.param(name, marks=() if name in ALWAYS and kind == 'onnx' else pytest.mark.full) for name in ROWS]


@pytest.mark.parametrize('name', families('onnx'))
def test_onnx_of_a_fixed_size(name):
    model = onnx.load_from_string(export_backbone(network(name), 'onnx', (33, 47), metadata={'config': name}))
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} <= {''}  # the operators of ONNX itself
    assert {entry.key: entry.value for entry in model.metadata_props}['config'] == name
    assert model.graph.input[0].name == 'image' and model.graph.output[0].name == 'map0'


@pytest.mark.parametrize('kind', ['torchscript', 'pt2'])
@pytest.mark.parametrize('name', families('torch'))
def test_torchs_own_files_of_a_fixed_size(name, kind):
    assert export_backbone(network(name), kind, (33, 47))


@pytest.mark.parametrize('name', families('dynamic'))
def test_any_size(name):
    assert export_backbone(network(name), 'onnx', (64, 96), dynamic=True)


@pytest.mark.full
@pytest.mark.parametrize('name', ALWAYS)
def test_any_size_for_torch(name):
    assert export_backbone(network(name), 'pt2', (64, 96), dynamic=True)


class Parity(nn.Module):
    """Another network for odd widths, as no graph can be."""

    def forward(self, x):
        return (x * 2 if x.shape[-1] % 2 == 0 else x * 3,)


def test_a_graph_for_some_sizes_is_refused():
    with pytest.raises(
        InputError, match=r'the pt2 graph of this network does not hold for 101x119 \(Guard failed: .*onnx'
    ):
        export_backbone(Parity(), 'pt2', (64, 96), dynamic=True)


def test_torchscript_takes_no_size_but_its_own():
    with pytest.raises(InputError, match='--dynamic: not with torchscript: tracing writes the sizes'):
        export_backbone(network('MambaOut'), 'torchscript', (64, 64), dynamic=True)


@pytest.mark.parametrize('length', [1, STEPS - 1, STEPS, STEPS + 1, 5 * STEPS + 3, 131])
@pytest.mark.parametrize('reverse', [False, True])
@pytest.mark.parametrize('padded', [False, True])
def test_the_decomposed_scan_is_the_scan(length, reverse, padded):
    """In an order with padding slots too; the last state as well."""
    g = torch.Generator().manual_seed(length)
    u, delta, z = (torch.randn(2, 6, length, generator=g, dtype=torch.float64) for _ in range(3))
    A = -torch.rand(6, 3, generator=g, dtype=torch.float64)
    B, C = (torch.randn(2, 2, 3, length, generator=g, dtype=torch.float64) for _ in range(2))
    D, bias = (torch.randn(6, generator=g, dtype=torch.float64) for _ in range(2))
    order = None
    if padded:
        order = torch.full((length + 4,), -1)
        order[torch.randperm(length + 4, generator=g)[:length]] = torch.randperm(length, generator=g)
    expected, state = selective_scan(
        u, delta, A, B, C, D, z, bias, True, reverse=reverse, order=order, return_last_state=True, backend='naive'
    )
    found, last, _ = decomposed_scan(u, delta, A, B, C, D, z, bias, True, reverse, order, False, 'chunk')
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(last, state, rtol=1e-10, atol=1e-12)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Of the quickstart's backbone, within a whole model's names."""
    from mmbackbones.engine.config import load_config

    config = load_config(ROOT / SEGMENTOR).model.backbone
    torch.manual_seed(0)
    net = MODELS.build({**config, 'init_cfg': None})
    path = tmp_path_factory.mktemp('weights') / 'iter_1.pth'
    torch.save({'state_dict': {f'backbone.{key}': value for key, value in net.state_dict().items()}}, path)
    return path


def command(checkpoint, out, *options):
    command_line.export([str(ROOT / SEGMENTOR), str(checkpoint), '-o', str(out), *options])


def test_command(checkpoint, tmp_path, capsys):
    """TorchScript, the quickest format to write; a stranger reads it and its metadata with torch alone."""
    out = tmp_path / 'net.pt'
    command(checkpoint, out, '--backbone-only', '--format', 'torchscript', '--size', '40', '64')
    assert 'its maps are those of PyTorch to 1e-4' in capsys.readouterr().out
    extra = {formats.METADATA: ''}
    maps = torch.jit.load(out, _extra_files=extra)(torch.zeros(1, 3, 40, 64))
    assert [each.shape[1] for each in maps] == [16, 32, 48, 64]
    facts = json.loads(extra[formats.METADATA])
    assert (
        facts['size'] == '40x64'
        and json.loads(facts['mean'])[0] == 123.675
        and 'torch' in json.loads(facts['versions'])
    )
    with pytest.raises(InputError, match='exists; nothing was overwritten'):
        command(checkpoint, out, '--backbone-only')


@pytest.mark.parametrize(
    ('options', 'fault'),
    [
        ([], '--backbone-only is missing: whole detectors and segmentors are exported by onedl-mmdeploy'),
        (['--backbone-only', '--size', '2', '64'], 'image 2x64 is smaller than the stem'),
        (['--backbone-only', '--size', '0', '64'], '--size 0 64: expected two positive numbers'),
        (['--backbone-only', '--backbone', 'vmamba_mini'], 'does not fit VMamba'),
        (['--backbone-only', '--backbone', 'nonet'], 'nonet: no such'),
    ],
)
def test_bad_input(checkpoint, tmp_path, options, fault):
    with pytest.raises(InputError, match=fault) as error:
        command(checkpoint, tmp_path / 'net.onnx', *options)
    assert '\n' not in str(error.value) and not list(tmp_path.iterdir())


def test_a_quantized_checkpoint_is_refused(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content['state_dict'] = {
        key: (value * 10).to(torch.int8) if value.dim() else value for key, value in content['state_dict'].items()
    }
    torch.save(content, tmp_path / 'int8.pth')
    with pytest.raises(InputError, match='is it quantized'):
        command(tmp_path / 'int8.pth', tmp_path / 'net.onnx', '--backbone-only')
    assert not (tmp_path / 'net.onnx').exists()


def test_channels_are_those_that_the_backbone_sees():
    """mmpretrain names the option as it is, the others by what it changes."""
    said = [_normalization(options)['channels'] for options in (dict(bgr_to_rgb=True), dict(to_rgb=True), {})]
    assert said == ['RGB', 'RGB', 'as read (BGR in OpenCV)']


def test_a_wrong_result_is_not_written(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(formats.READERS, 'torchscript', lambda data: lambda x: [x] * 4)
    with pytest.raises(
        InputError, match='map 0 of an image 64x64 is of another shape from PyTorch; nothing was written'
    ):
        command(checkpoint, tmp_path / 'n.pt', '--backbone-only', '--format', 'torchscript', '--size', '64', '64')
    assert not list(tmp_path.iterdir())
