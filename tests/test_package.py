"""The package as others meet it: imports, registration from anywhere, torchvision beside any torch."""

import subprocess
import sys

import pytest
import torch

from mmbackbones import torchvision_ops


def python(code: str, cwd) -> str:
    done = subprocess.run([sys.executable, '-c', code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmengine'])
def test_one_registration_serves_every_framework_from_any_folder(scope, tmp_path):
    """The type string alone is enough: importing the package registers nothing, it lets mmseg import torchvision."""
    out = python(
        'import mmbackbones\n'
        f'from {scope}.registry import MODELS\n'
        "net = MODELS.build(dict(type='mmbackbones.MambaOut', arch=dict(depths=(1, 1), dims=(8, 16)),"
        ' out_indices=(0, 1)))\n'
        'print(type(net).__module__, net.out_channels, net.out_strides)',
        tmp_path,
    )
    assert out.splitlines()[-1] == 'mmbackbones.backbones.mambaout (8, 16) (4, 8)'


def test_import_is_light_and_prints_nothing(tmp_path):
    out = python(
        "import sys, mmbackbones\nprint([m for m in ('mmcv', 'mmdet', 'mmseg', 'timm') if m in sys.modules])", tmp_path
    )
    assert out == '[]\n'


def test_torchvision_imports_beside_this_torch(tmp_path):
    assert python('import mmbackbones, torchvision, timm\nprint(torchvision.ops.nms.__name__)', tmp_path) == 'nms\n'


def test_schemas_are_declared_only_where_the_compiled_part_is_missing(monkeypatch):
    monkeypatch.setattr(torchvision_ops, '_library', None)
    monkeypatch.setattr(torchvision_ops, '_compiled_part_loads', lambda package: True)
    assert torchvision_ops.declare_if_missing() is False
    monkeypatch.setattr(torch.ops.torchvision, 'nms', object(), raising=False)
    monkeypatch.setattr(torchvision_ops, '_compiled_part_loads', lambda package: False)
    assert torchvision_ops.declare_if_missing() is False


def test_a_library_that_does_not_link_is_noticed(tmp_path):
    assert not torchvision_ops._compiled_part_loads(tmp_path)
    (tmp_path / '_C.so').write_bytes(b'not a library')
    assert not torchvision_ops._compiled_part_loads(tmp_path)
