"""Data sets to check, and a cache of their own."""

import logging
import shutil
from pathlib import Path

import pytest

from mmbackbones.datasets.check import report
from mmbackbones.datasets.shapes import write_shapes


@pytest.fixture(scope='session')
def sound(tmp_path_factory) -> Path:
    return write_shapes(tmp_path_factory.mktemp('check') / 'data', train=3, val=2)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture
def data(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / 'data'))


@pytest.fixture
def warned(monkeypatch) -> list[str]:
    """What the check logs as warnings."""
    lines = []

    def log(message: str, logger=None, level: int = logging.INFO) -> None:
        if level == logging.WARNING:
            lines.append(message)

    monkeypatch.setattr(report, 'print_log', log)
    return lines
