"""The one loader: a crafted file runs nothing, and whoever loads by mmengine comes here."""

from collections import OrderedDict

import pytest
import torch
from mmengine.runner import load_checkpoint as mm_load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmbackbones.checkpoints.load import load_checkpoint, load_from_address
from mmbackbones.checkpoints.read import read_checkpoint
from mmbackbones.errors import InputError
from tests.checkpoints.crafted import GADGETS, RUNS_WHEN_UNPICKLED, WRITERS, crafted


def mmengines_load_checkpoint(filename):
    return mm_load_checkpoint(nn.Linear(2, 2), filename)


@pytest.mark.promise('crafted-containers')
@pytest.mark.parametrize('writer', WRITERS)
@pytest.mark.parametrize('gadget', GADGETS)
def test_crafted_file_runs_nothing(tmp_path, gadget, writer):
    path, witness = tmp_path / 'a.pth', tmp_path / 'witness'
    WRITERS[writer](crafted(gadget, f'touch {witness}'), path)

    if writer == 'zip' and gadget in RUNS_WHEN_UNPICKLED:  # else this test could not fail
        torch.load(path, weights_only=False)
        assert witness.exists()
        witness.unlink()

    for load in (load_checkpoint, read_checkpoint, CheckpointLoader.load_checkpoint, mmengines_load_checkpoint):
        try:
            found = load(str(path))
        except InputError as error:
            assert str(path) in str(error) and '\n' not in str(error)
        else:
            checkpoint = found if isinstance(found, dict) else found.content
            notes = checkpoint['meta']['notes'][1]
            assert notes == {} or isinstance(notes['x'], int | OrderedDict)
        assert not witness.exists()


def test_our_own_loading_takes_no_way_through_mmengine(tmp_path, monkeypatch):
    torch.save(dict(w=torch.ones(2)), tmp_path / 'a.pth')
    monkeypatch.setattr(CheckpointLoader, 'load_checkpoint', None)
    monkeypatch.setattr(CheckpointLoader, '_schemes', {})
    assert torch.equal(load_checkpoint(str(tmp_path / 'a.pth')).content['w'], torch.ones(2))


def test_every_scheme_of_mmengine_ends_here():
    assert len(CheckpointLoader._schemes) == 13
    assert set(CheckpointLoader._schemes.values()) == {load_from_address}
