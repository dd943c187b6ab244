"""The package as others meet it: imports, registration from anywhere, torchvision beside any torch."""

import shutil
import subprocess
import sys

import pytest
import torch

from mmbackbones import torchvision_ops
from tests.conftest import ROOT


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
    """What takes time is not loaded: torch neither, so that commands can tell their options without it."""
    code = 'import sys, mmbackbones\nmmbackbones.list_backbones("*mamba*", task="detection")\n'
    code += 'mmbackbones.backbone_info("vim_tiny")\nheavy = {"torch", "numpy", "mmengine", "mmcv", "mmdet", "timm"}\n'
    assert python(f'{code}print(sorted(heavy & set(sys.modules)), len(sys.modules) < 300)', tmp_path) == '[] True\n'


def test_public_functions_from_any_folder(tmp_path):
    code = (
        'import mmbackbones.ops.selective_scan.op\n'
        'from mmbackbones.ops import selective_scan, directional_scan\n'
        'import mmbackbones.ops.directional_scan.composed\n'
        'from mmbackbones import ops\n'
        'print(ops.selective_scan is selective_scan is mmbackbones.selective_scan, directional_scan.__name__)\n'
        'print(selective_scan.__class__.__name__, mmbackbones.create_backbone("vim_mini").out_channels)'
    )
    assert python(code, tmp_path).splitlines()[-2:] == ['True directional_scan', 'function (64,)']


def test_torchvision_imports_beside_this_torch(tmp_path):
    assert python('import mmbackbones, torchvision, timm\nprint(torchvision.ops.nms.__name__)', tmp_path) == 'nms\n'


@pytest.mark.parametrize('first', ['import timm', 'from mmseg.apis import init_model'])
def test_frameworks_come_first_in_the_environment_of_the_set_up(first, tmp_path):
    """With the hook that ``tools/setup_env.sh`` installs where torchvision does not match torch."""
    shutil.copy(ROOT / 'mmbackbones' / 'torchvision_hook.py', tmp_path / 'mmbackbones_torchvision.py')
    (tmp_path / 'mmbackbones_torchvision.pth').write_text('import mmbackbones_torchvision\n')
    start = f'import site, sys\nsite.addsitedir({str(tmp_path)!r})\nassert "torch" not in sys.modules\n'
    code = f'{start}{first}\nimport torchvision\nprint(torchvision.ops.nms.__name__, "mmbackbones" in sys.modules)'
    assert python(code, tmp_path).splitlines()[-1] == 'nms True'


def test_an_import_that_failed_can_be_repeated_after_ours(tmp_path):
    code = 'try:\n    import timm\nexcept RuntimeError:\n    pass\nimport mmbackbones, timm\nprint(timm.__name__)'
    assert python(code, tmp_path) == 'timm\n'


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
