"""Fixtures of the golden tests."""

import pytest

from mmbackbones.errors import InputError
from mmbackbones.ops.selective_scan import selective_scan_backend


@pytest.fixture(params=['chunk', 'cpu'])
def backend(request, monkeypatch) -> None:
    """The scan's backends that a CPU has, one after the other."""
    monkeypatch.setenv('MMBACKBONES_SCAN_BACKEND', request.param)
    try:
        selective_scan_backend('cpu')
    except InputError as error:
        pytest.skip(str(error))
