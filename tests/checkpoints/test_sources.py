"""Addresses: downloads and their cache, the hub, aliases, and what is refused."""

import argparse
import functools
import hashlib
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save_file

from mmbackbones.checkpoints import sources
from mmbackbones.checkpoints.load import load_checkpoint
from mmbackbones.errors import InputError

WEIGHT = torch.arange(6.0).reshape(2, 3)


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
        checkpoint = load_checkpoint(f'{address}/{name}/model.safetensors').content
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
    checkpoint = load_checkpoint(f'{address}/{path.name}#sha256={digest}').content
    torch.testing.assert_close(checkpoint['w'], WEIGHT, rtol=0, atol=0)


def test_damaged_download_is_not_kept(web):
    folder, address = web
    torch.save({'w': WEIGHT}, folder / 'a.pth')
    (folder / 'a.pth').write_bytes((folder / 'a.pth').read_bytes()[:-7])
    with pytest.raises(InputError, match=r'a\.pth .*damaged.*removed'):
        load_checkpoint(f'{address}/a.pth')
    torch.save({'w': WEIGHT}, folder / 'a.pth')
    torch.testing.assert_close(load_checkpoint(f'{address}/a.pth').content['w'], WEIGHT, rtol=0, atol=0)


def test_alias_goes_through_the_loader(web, monkeypatch):
    folder, address = web
    torch.save({'w': WEIGHT, 'a': argparse.Namespace()}, folder / 'a.pth')
    torch.save({'state_dict': {'backbone.w': WEIGHT, 'head.w': WEIGHT}}, folder / 'b.pth')
    for scheme in ('torchvision', 'modelzoo', 'open-mmlab', 'openmmlab'):
        monkeypatch.setitem(sources.ALIASES, scheme, lambda: {'net': f'{address}/a.pth'})
    monkeypatch.setitem(sources.ALIASES, 'mmcls', lambda: {'net': f'{address}/b.pth'})
    for name in ('torchvision://net', 'modelzoo://net', 'open-mmlab://net', 'openmmlab://net'):
        assert load_checkpoint(name).left_out == ['a']
        with pytest.raises(InputError, match='another file, refused'):
            load_checkpoint(f'{name}#sha256={"0" * 64}')
        torch.save({'w': WEIGHT, 'a': argparse.Namespace()}, folder / 'a.pth')
    assert list(load_checkpoint('mmcls://net').content['state_dict']) == ['w']


def test_old_names_of_openmmlab(monkeypatch):
    monkeypatch.setattr(sources, 'get_external_models', lambda: {'new': 'a.pth', 'kept': 'b.pth'})
    monkeypatch.setattr(sources, 'get_deprecated_model_names', lambda: {'old': 'new', 'gone': 'nowhere'})
    assert sources.find_file('open-mmlab://old').path.name == 'a.pth'
    assert sources.find_file('openmmlab://kept').path.name == 'b.pth'
    with pytest.raises(InputError, match="knows no 'gone'"):
        sources.find_file('open-mmlab://gone')


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
