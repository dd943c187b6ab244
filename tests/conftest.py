"""Where test data lies, and what is skipped where it does not."""

import lzma
import os
import tempfile
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from mmbackbones import torchvision_ops

pytest_plugins = ['tests.promises']
torchvision_ops.declare_if_missing()  # before any test that imports timm

os.environ.setdefault('OMP_NUM_THREADS', '1')  # two threads were five times slower on a shared two-core machine

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / 'tests' / 'golden'
SHARED = Path(os.environ.get('MMBACKBONES_SHARED', ROOT.parent / 'shared'))  # data too large for the project
UNPACKED = tempfile.TemporaryDirectory(prefix='mmbackbones-golden-')


def golden(name: str) -> Path:
    """Path of a golden file: the project's own copy, else that of the full collection in ``SHARED``.

    Numeric cases of the authors' code; tests/golden/README.md says what each holds.
    """
    unpacked = Path(UNPACKED.name, name)
    if not unpacked.exists() and (GOLDEN / f'{name}.xz').is_file():
        unpacked.write_bytes(lzma.decompress((GOLDEN / f'{name}.xz').read_bytes()))
    for path in (unpacked, SHARED / 'golden' / name):
        if path.is_file():
            return path
    pytest.skip(
        f'golden file {name} is neither in tests/golden nor in {SHARED}/golden (MMBACKBONES_SHARED)',
        allow_module_level=True,
    )


def golden_tensors(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a golden file; see :func:`golden`."""
    path = golden(name)
    with safe_open(path, 'pt') as file:
        return load_file(path), file.metadata()


@pytest.fixture(scope='session', autouse=True)
def _own_surroundings(tmp_path_factory):
    """Tests leave the user's cache alone, and find nothing in it; nor do the user's settings reach them."""
    os.environ['XDG_CACHE_HOME'] = str(tmp_path_factory.mktemp('cache'))
    os.environ.pop('MMBACKBONES_SCAN_BACKEND', None)  # tests choose their backends themselves


@pytest.fixture(scope='session')
def realdata() -> Path:
    """Folder with the real COCO and ADE20K miniatures."""
    folder = SHARED / 'realdata'
    if not folder.is_dir():
        pytest.skip(f'real miniature data not found at {folder}; set MMBACKBONES_SHARED')
    return folder
