"""Where test data lies, and what is skipped where it does not."""

import lzma
import os
import tempfile
from pathlib import Path

import pytest

import mmbackbones  # noqa: F401  (makes torchvision importable, so before any test that imports timm)
from tests.promises import figure, pytest_collection_modifyitems, pytest_terminal_summary  # noqa: F401

os.environ.setdefault('OMP_NUM_THREADS', '1')  # two threads were five times slower on a shared two-core machine

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / 'tests' / 'golden'
ALL_GOLDEN = ROOT.parent / 'shared' / 'golden'
UNPACKED = tempfile.TemporaryDirectory(prefix='mmbackbones-golden-')


def golden(name: str) -> Path:
    """Path of a golden file: the project's own copy, else the full collection beside the project.

    Numeric cases of the authors' code; tests/golden/README.md says what each holds.
    """
    unpacked = Path(UNPACKED.name, name)
    if not unpacked.exists() and (GOLDEN / f'{name}.xz').is_file():
        unpacked.write_bytes(lzma.decompress((GOLDEN / f'{name}.xz').read_bytes()))
    for path in (unpacked, ALL_GOLDEN / name):
        if path.is_file():
            return path
    pytest.skip(f'golden file {name} is neither in tests/golden nor in ../shared/golden', allow_module_level=True)


@pytest.fixture(scope='session', autouse=True)
def _own_surroundings(tmp_path_factory):
    """Tests leave the user's cache alone, and find nothing in it; nor do the user's settings reach them."""
    os.environ['XDG_CACHE_HOME'] = str(tmp_path_factory.mktemp('cache'))
    os.environ.pop('MMBACKBONES_SCAN_BACKEND', None)  # tests choose their backends themselves


@pytest.fixture(scope='session')
def realdata() -> Path:
    """Folder with the real COCO and ADE20K miniatures, ``../shared/realdata`` or ``$MMBACKBONES_REALDATA``."""
    folder = Path(os.environ.get('MMBACKBONES_REALDATA', ROOT.parent / 'shared' / 'realdata'))
    if not folder.is_dir():
        pytest.skip(f'real miniature data not found at {folder}; set MMBACKBONES_REALDATA')
    return folder
