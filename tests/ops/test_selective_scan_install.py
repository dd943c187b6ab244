"""The package installs without a C++ compiler, and the scan says what is left. tests/test_wheel.py has one."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

PROBE = """
import torch
from mmbackbones.ops.selective_scan import selective_scan, selective_scan_backend
print(*selective_scan_backend('cpu'), sep=': ')
x = torch.rand(1, 4, 9)
print(torch.isfinite(selective_scan(x, x, -torch.rand(4, 2), torch.rand(1, 2, 9), torch.rand(1, 2, 9))).all().item())
"""


def install(folder: Path, **environment: str) -> tuple[list[str], str]:
    """Build a wheel from a copy of the sources, unpack it, and try the scan from there."""
    source, wheels, target = folder / 'source', folder / 'wheels', folder / 'target'
    source.mkdir()
    for name in ('pyproject.toml', 'setup.py', 'README.md', 'LICENSE'):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    for name in ('mmbackbones', 'configs'):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('*.so', '__pycache__'))
    command = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '--no-index']
    subprocess.run([*command, '-w', wheels, source], check=True, env={**os.environ, **environment})
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
        names = archive.namelist()
    environment = {**os.environ, 'PYTHONPATH': str(target)}
    environment.pop('MMBACKBONES_SCAN_BACKEND', None)
    output = subprocess.run(
        [sys.executable, '-c', PROBE], check=True, env=environment, cwd=folder, capture_output=True, text=True
    ).stdout
    return [name for name in names if '_scan_' in name], output


@pytest.mark.slow
def test_install_without_a_compiler(tmp_path):
    libraries, output = install(tmp_path, CC='false', CXX='false')
    assert libraries == []
    assert 'chunk: cpu cannot be used: the C++ kernel was not built' in output
    assert output.endswith('True\n')
