"""Data that several tests train on."""

from pathlib import Path

import pytest

from mmbackbones.datasets.shapes import write_shapes


@pytest.fixture(scope='session')
def shapes(tmp_path_factory) -> Path:
    return write_shapes(tmp_path_factory.mktemp('data') / 'shapes', train=12, val=7)
