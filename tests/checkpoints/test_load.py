"""The one loader: what it reads, what it refuses, and that a crafted file runs nothing."""

import argparse
import functools
import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import types
from collections import OrderedDict
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import load_checkpoint as mm_load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save, save_file
from torch import nn

from mmbackbones.checkpoints import load as loading
from mmbackbones.checkpoints.load import Inert, load_checkpoint, strip_inert
from mmbackbones.errors import InputError

WEIGHT = torch.arange(6.0).reshape(2, 3)


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


GADGETS = {
    'os.system': lambda command: Call(os.system, command),
    'eval': lambda command: Call(eval, f'__import__("os").system({command!r})'),
    'exec': lambda command: Call(exec, f'__import__("os").system({command!r})'),
    'subprocess': lambda command: Call(subprocess.call, ['sh', '-c', command]),
    'getattr chain': lambda command: Call(getattr, Call(__import__, 'os'), 'system'),
    'partial': lambda command: Call(partial, eval, command),
    'nested torch.load': lambda command: Call(torch.load, io.BytesIO(pickle.dumps(Call(os.system, command)))),
    'numpy object': lambda command: Call(
        np._core.multiarray.scalar, np.dtype('O'), pickle.dumps(Call(os.system, command))
    ),
    'rebuild from type': lambda command: Call(
        torch._tensor._rebuild_from_type_v2, eval, torch.Tensor, (f'__import__("os").system({command!r})',), {}
    ),
}
RUNS_WHEN_UNPICKLED = ('os.system', 'eval', 'exec', 'subprocess')


def crafted(name, command):
    """A valid checkpoint with a gadget deep in its metadata."""
    return {
        'state_dict': {'weight': torch.zeros(2, 2), 'bias': torch.zeros(2)},
        'meta': {'notes': [1, {'x': GADGETS[name](command)}]},
    }


def write_tar(obj, path):
    """The container of torch before 0.4: a tar whose members are pickles."""
    with tarfile.open(path, 'w') as tar:
        for member in ('storages', 'tensors', 'pickle'):
            data = pickle.dumps(obj, 2)
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


WRITERS = {
    'zip': torch.save,
    'legacy': partial(torch.save, _use_new_zipfile_serialization=False),
    'protocol 4': partial(torch.save, pickle_protocol=4),
    'tar': write_tar,
    'bare pickle': lambda obj, path: path.write_bytes(pickle.dumps(obj['meta'], 2)),
}


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

    for load in (load_checkpoint, loading.read_checkpoint, partial(mm_load_checkpoint, nn.Linear(2, 2))):
        try:
            checkpoint = load(str(path))
        except InputError as error:
            assert str(path) in str(error) and '\n' not in str(error)
        else:
            assert isinstance(checkpoint['meta']['notes'][1]['x'], Inert | int | OrderedDict)
            assert set(strip_inert(checkpoint)[0]['meta']['notes'][1]) <= {'x'}
        assert not witness.exists()


def test_allow_list_of_others_is_not_used_and_is_kept(tmp_path):
    witness = tmp_path / 'witness'
    torch.save({'w': WEIGHT, 'x': Call(eval, f'open({str(witness)!r}, "w")')}, tmp_path / 'a.pth')
    before = torch.serialization.get_safe_globals()
    try:
        torch.serialization.add_safe_globals([eval])
        assert isinstance(load_checkpoint(str(tmp_path / 'a.pth'))['x'], Inert)
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

    checkpoint = load_checkpoint(str(tmp_path / 'a.pth'))

    torch.testing.assert_close(checkpoint['model']['w'], WEIGHT, rtol=0, atol=0)
    assert type(checkpoint['args']).__name__ == 'argparse.Namespace' and isinstance(checkpoint['args'], Inert)
    assert checkpoint['args'].state['lr'] == 0.1
    assert checkpoint['config'] == {'A': 1, 'B': {'C': 'c'}}
    assert isinstance(checkpoint['slots'], Inert) and checkpoint['slots'].state == (None, {'a': 3})
    plain, dropped = strip_inert(checkpoint)
    assert sorted(dropped) == ['args', 'array', 'message_hub.log_scalars.loss', 'scalar', 'slots']
    assert plain['epoch'] == 12 and plain['message_hub'] == {'log_scalars': {}}
    assert plain['model']['w'] is checkpoint['model']['w']


def test_strip_inert_keeps_module_versions(tmp_path):
    torch.save({'state_dict': nn.BatchNorm2d(2).state_dict()}, tmp_path / 'a.pth')
    plain, dropped = strip_inert(load_checkpoint(str(tmp_path / 'a.pth')))
    assert not dropped
    assert plain['state_dict']._metadata == nn.BatchNorm2d(2).state_dict()._metadata


@pytest.mark.parametrize('legacy', [False, True])
def test_plain_tensors_of_both_torch_formats(tmp_path, legacy):
    weights = {'w': WEIGHT, 'n': {'half': WEIGHT.half()}}
    torch.save(weights, tmp_path / 'a.pth', _use_new_zipfile_serialization=not legacy)
    checkpoint = load_checkpoint(str(tmp_path / 'a.pth'))
    torch.testing.assert_close(checkpoint['w'], WEIGHT, rtol=0, atol=0)
    assert checkpoint['n']['half'].dtype is torch.float16


@pytest.mark.parametrize('name', ['a.safetensors', 'without-suffix'])
def test_safetensors_by_content(tmp_path, name):
    save_file({'w': WEIGHT}, tmp_path / name)
    torch.testing.assert_close(load_checkpoint(str(tmp_path / name))['w'], WEIGHT, rtol=0, atol=0)


@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors'])
def test_map_location(tmp_path, name):
    path = str(tmp_path / name)
    save_file({'w': WEIGHT}, path) if name.endswith('safetensors') else torch.save({'w': WEIGHT}, path)
    assert load_checkpoint(path, 'meta')['w'].is_meta
    assert load_checkpoint(path, torch.device('meta'))['w'].is_meta
    assert load_checkpoint(path, None)['w'].device.type == 'cpu'
    seen = []
    mapped = load_checkpoint(path, lambda storage, place: seen.append(place) or storage)
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
        load_checkpoint(str(path))
    assert message in str(error.value) and str(path) in str(error.value) and '\n' not in str(error.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match=r'checkpoint .*nowhere\.pth: no such file'):
        load_checkpoint(str(tmp_path / 'nowhere.pth'))
    with pytest.raises(InputError, match='is a folder'):
        load_checkpoint(str(tmp_path))


def test_recursive_file_is_refused(tmp_path):
    checkpoint = {'w': WEIGHT}
    checkpoint['again'] = checkpoint
    torch.save(checkpoint, tmp_path / 'a.pth')
    with pytest.raises(InputError, match='recursion'):
        load_checkpoint(str(tmp_path / 'a.pth'))


def test_every_scheme_ends_here():
    assert len(CheckpointLoader._schemes) == 12
    for prefix, loader in CheckpointLoader._schemes.items():
        assert loader.__module__ == loading.__name__, prefix


@pytest.mark.parametrize(
    'name, message',
    [
        ('s3://bucket/a.pth', 'this storage is not supported'),
        ('cluster:s3://bucket/a.pth', 'this storage is not supported'),
        ('petrel://bucket/a.pth', 'this storage is not supported'),
        ('pavi://a', 'this storage is not supported'),
        ('ftp://host/a.pth', 'unknown scheme'),
        ('torchvision://nonet', "torchvision:// knows no 'nonet'"),
        ('modelzoo://nonet', "modelzoo:// knows no 'nonet'"),
        ('open-mmlab://nonet', "open-mmlab:// knows no 'nonet'"),
        ('openmmlab://nonet', "openmmlab:// knows no 'nonet'"),
        ('mmcls://nonet', "mmcls:// knows no 'nonet'"),
        ('hf://owner/name', 'expected hf://owner/name/file'),
    ],
)
def test_refused_names(name, message):
    with pytest.raises(InputError) as error:
        load_checkpoint(name)
    assert message in str(error.value) and '\n' not in str(error.value)


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A folder served over HTTP, and an own cache folder."""
    for name in ('no_proxy', 'NO_PROXY'):
        monkeypatch.setenv(name, '127.0.0.1')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    folder = tmp_path / 'served'
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f'http://127.0.0.1:{server.server_address[1]}'
    server.shutdown()
    server.server_close()


def test_download_is_cached_by_address(web):
    folder, address = web
    for name, value in (('a', 1.0), ('b', 2.0)):
        (folder / name).mkdir()
        save_file({'w': WEIGHT * value}, folder / name / 'model.safetensors')
    for name, value in (('a', 1.0), ('b', 2.0), ('a', 1.0)):
        checkpoint = load_checkpoint(f'{address}/{name}/model.safetensors')
        torch.testing.assert_close(checkpoint['w'], WEIGHT * value, rtol=0, atol=0)
        (folder / name / 'model.safetensors').unlink(missing_ok=True)


def test_download_with_another_checksum_is_refused_and_not_kept(web):
    folder, address = web
    path = folder / 'a%23b.pth'  # as in VMamba's addresses
    torch.save({'w': WEIGHT}, folder / 'a#b.pth')
    digest = hashlib.sha256((folder / 'a#b.pth').read_bytes()).hexdigest()
    with pytest.raises(InputError, match=rf'is {digest}, the one asked for is {"0" * 64}; another file.* removed'):
        load_checkpoint(f'{address}/{path.name}#sha256={"0" * 64}')
    assert not [file for file in (folder.parent / 'cache').rglob('*.pth') if file.is_file()]
    checkpoint = load_checkpoint(f'{address}/{path.name}#sha256={digest}')
    torch.testing.assert_close(checkpoint['w'], WEIGHT, rtol=0, atol=0)


def test_damaged_download_is_not_kept(web):
    folder, address = web
    (folder / 'a.pth').write_bytes(_truncated('pth'))
    with pytest.raises(InputError, match=r'a\.pth .*damaged.*removed'):
        load_checkpoint(f'{address}/a.pth')
    torch.save({'w': WEIGHT}, folder / 'a.pth')
    torch.testing.assert_close(load_checkpoint(f'{address}/a.pth')['w'], WEIGHT, rtol=0, atol=0)


def test_alias_goes_through_the_loader(web, monkeypatch):
    folder, address = web
    torch.save({'w': WEIGHT, 'a': argparse.Namespace()}, folder / 'a.pth')
    torch.save({'state_dict': {'backbone.w': WEIGHT, 'head.w': WEIGHT}}, folder / 'b.pth')
    monkeypatch.setattr(loading, 'get_torchvision_models', lambda: {'net': f'{address}/a.pth'})
    monkeypatch.setattr(loading, 'get_external_models', lambda: {'net': f'{address}/a.pth'})
    monkeypatch.setattr(loading, 'get_mmcls_models', lambda: {'net': f'{address}/b.pth'})
    for name in ('torchvision://net', 'modelzoo://net', 'open-mmlab://net', 'openmmlab://net'):
        assert isinstance(load_checkpoint(name)['a'], Inert)
        with pytest.raises(InputError, match='another file, refused'):
            load_checkpoint(f'{name}#sha256={"0" * 64}')
        torch.save({'w': WEIGHT, 'a': argparse.Namespace()}, folder / 'a.pth')
    assert list(load_checkpoint('mmcls://net')['state_dict']) == ['w']


@pytest.mark.parametrize('path', ['missing.pth', ''])
def test_unreachable_address_names_it_and_the_way_out(web, path):
    _, address = web
    url = f'{address}/{path}' if path else 'http://127.0.0.1:9/a.pth'
    with pytest.raises(InputError) as error:
        load_checkpoint(url)
    assert f'cannot download {url}' in str(error.value) and 'path of the local file' in str(error.value)
    assert '\n' not in str(error.value)


def test_hub(tmp_path, monkeypatch):
    asked = []

    def download(repo, file, revision=None):
        asked.append((repo, file, revision))
        if repo == 'no/where':
            raise ConnectionError('no route\nto host')
        save_file({'w': WEIGHT}, tmp_path / 'model.safetensors')
        return str(tmp_path / 'model.safetensors')

    monkeypatch.setattr('huggingface_hub.hf_hub_download', download)
    load_checkpoint('hf://timm/mambaout_tiny.in1k/model.safetensors')
    load_checkpoint('hf://owner/name@v1/folder/a.pth')
    assert asked == [('timm/mambaout_tiny.in1k', 'model.safetensors', None), ('owner/name', 'folder/a.pth', 'v1')]
    with pytest.raises(InputError, match=r'cannot download hf://no/where/a\.pth: no route to host; .*local file'):
        load_checkpoint('hf://no/where/a.pth')
