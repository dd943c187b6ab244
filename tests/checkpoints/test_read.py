"""Reading a file: what is read, what is refused, and that foreign objects in it are inert."""

import argparse
import io
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save, save_file
from torch import nn

from mmbackbones.checkpoints.read import Inert, read_checkpoint
from mmbackbones.checkpoints.read import _read_torch as read_torch
from mmbackbones.errors import InputError
from tests.checkpoints.crafted import Call

WEIGHT = torch.arange(6.0).reshape(2, 3)


def test_allow_list_of_others_is_not_used_and_is_kept(tmp_path):
    witness = tmp_path / 'witness'
    torch.save({'w': WEIGHT, 'x': Call(eval, f'open({str(witness)!r}, "w")')}, tmp_path / 'a.pth')
    before = torch.serialization.get_safe_globals()
    try:
        torch.serialization.add_safe_globals([eval])
        assert read_checkpoint(tmp_path / 'a.pth').left_out == ['x']
        assert eval in torch.serialization.get_safe_globals()
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
    assert not witness.exists()


@pytest.fixture
def foreign(monkeypatch):
    """Packages that exist when the file is written and are gone when it is read."""

    class CfgNode(dict):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.__dict__['__immutable__'] = False

    class Mode:
        __slots__ = ('a',)

        def __init__(self, a):
            self.a = a

        def __reduce_ex__(self, protocol):
            return object.__reduce_ex__(self, 2)

    module = types.ModuleType('nowhere.config')
    for cls in (CfgNode, Mode):
        cls.__module__, cls.__qualname__ = 'nowhere.config', cls.__name__
        setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, 'nowhere', types.ModuleType('nowhere'))
    monkeypatch.setitem(sys.modules, 'nowhere.config', module)
    yield module
    assert 'nowhere.config' not in sys.modules


def test_foreign_objects_load_as_inert_data(tmp_path, foreign):
    torch.save(
        {
            'model': OrderedDict(w=WEIGHT),
            'args': argparse.Namespace(lr=0.1, nested=argparse.Namespace(x=[1])),
            'config': foreign.CfgNode(A=1, B=foreign.CfgNode(C='c')),
            'slots': foreign.Mode(3),
            'message_hub': {'log_scalars': {'loss': HistoryBuffer([1.0, 2.0], [1, 1])}},
            'scalar': np.float64(3.0),
            'array': np.arange(3),
            'epoch': 12,
        },
        tmp_path / 'a.pth',
    )
    del sys.modules['nowhere'], sys.modules['nowhere.config']

    saved = read_torch(tmp_path / 'a.pth', 'cpu')  # before the foreign objects are left out
    assert type(saved['args']).__name__ == 'argparse.Namespace' and isinstance(saved['args'], Inert)
    assert saved['args'].state['lr'] == 0.1
    assert isinstance(saved['slots'], Inert) and saved['slots'].state == (None, {'a': 3})

    content, left_out = read_checkpoint(tmp_path / 'a.pth')
    torch.testing.assert_close(content['model']['w'], WEIGHT, rtol=0, atol=0)
    assert content['config'] == {'A': 1, 'B': {'C': 'c'}}
    assert sorted(left_out) == ['args', 'array', 'message_hub.log_scalars.loss', 'scalar', 'slots']
    assert content.keys() == {'model', 'config', 'message_hub', 'epoch'}
    assert content['epoch'] == 12 and content['message_hub'] == {'log_scalars': {}}


def test_module_versions_are_kept(tmp_path):
    torch.save({'state_dict': nn.BatchNorm2d(2).state_dict()}, tmp_path / 'a.pth')
    content, left_out = read_checkpoint(tmp_path / 'a.pth')
    assert not left_out
    assert content['state_dict']._metadata == nn.BatchNorm2d(2).state_dict()._metadata


@pytest.mark.parametrize('legacy', [False, True])
def test_plain_tensors_of_both_torch_formats(tmp_path, legacy):
    weights = {'w': WEIGHT, 'n': {'half': WEIGHT.half()}}
    torch.save(weights, tmp_path / 'a.pth', _use_new_zipfile_serialization=not legacy)
    checkpoint = read_checkpoint(tmp_path / 'a.pth').content
    torch.testing.assert_close(checkpoint['w'], WEIGHT, rtol=0, atol=0)
    assert checkpoint['n']['half'].dtype is torch.float16


@pytest.mark.parametrize('name', ['a.safetensors', 'without-suffix'])
def test_safetensors_by_content(tmp_path, name):
    save_file({'w': WEIGHT}, tmp_path / name)
    torch.testing.assert_close(read_checkpoint(tmp_path / name).content['w'], WEIGHT, rtol=0, atol=0)


@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors'])
def test_map_location(tmp_path, name):
    path = str(tmp_path / name)
    save_file({'w': WEIGHT}, path) if name.endswith('safetensors') else torch.save({'w': WEIGHT}, path)
    assert read_checkpoint(path, 'meta').content['w'].is_meta
    assert read_checkpoint(path, torch.device('meta')).content['w'].is_meta
    assert read_checkpoint(path, None).content['w'].device.type == 'cpu'
    seen = []
    mapped = read_checkpoint(path, lambda storage, place: seen.append(place) or storage).content
    assert seen == ['cpu']
    torch.testing.assert_close(mapped['w'], WEIGHT, rtol=0, atol=0)


class Names(list):
    pass


def _truncated(suffix):
    data = save({'w': WEIGHT}) if suffix == 'safetensors' else _saved({'w': WEIGHT})
    return data[: len(data) - 7]


def _torchscript():
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), buffer)
    return buffer.getvalue()


def _saved(obj):
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    'content, message',
    [
        (lambda: b'', 'the file is empty (0 bytes)'),
        (lambda: _truncated('pth'), 'damaged, cut short'),
        (lambda: _truncated('safetensors'), 'damaged, cut short'),
        (lambda: b'these are not weights', 'no checkpoint, or damaged'),
        (lambda: bytes(range(256)), 'cannot be read safely'),
        (lambda: b'<!DOCTYPE html><html>not found</html>', 'is a web page'),
        (lambda: b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'Git LFS pointer'),
        (_torchscript, 'TorchScript'),
        (lambda: _saved(WEIGHT), 'holds a Tensor, expected a dict of tensors'),
        (lambda: _saved(nn.Linear(2, 2)), 'holds a torch.nn.modules.linear.Linear, expected a dict of tensors'),
        (lambda: _saved({'epoch': 3, 'args': argparse.Namespace()}), 'holds no tensors'),
        (lambda: _saved({'w': WEIGHT, 'x': Names(['a', 'b'])}), 'cannot be read safely'),
    ],
    ids=[
        'empty',
        'truncated',
        'truncated-safetensors',
        'text',
        'bytes',
        'html',
        'lfs',
        'torchscript',
        'tensor',
        'module',
        'no-tensors',
        'list-class',
    ],
)
def test_bad_file_says_what_is_wrong_in_one_line(tmp_path, content, message):
    path = tmp_path / 'weights.pth'
    path.write_bytes(content())
    with pytest.raises(InputError) as error:
        read_checkpoint(path)
    assert message in str(error.value) and str(path) in str(error.value) and '\n' not in str(error.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match=r'checkpoint .*nowhere\.pth: no such file'):
        read_checkpoint(tmp_path / 'nowhere.pth')
    with pytest.raises(InputError, match='is a folder'):
        read_checkpoint(tmp_path)


def test_recursive_file_is_refused(tmp_path):
    checkpoint = {'w': WEIGHT}
    checkpoint['again'] = checkpoint
    torch.save(checkpoint, tmp_path / 'a.pth')
    with pytest.raises(InputError, match='recursion'):
        read_checkpoint(tmp_path / 'a.pth')
