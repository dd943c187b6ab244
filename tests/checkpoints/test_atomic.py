"""Files are whole or not there, and damage is noticed."""

import ctypes
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from mmbackbones.checkpoints import atomic as files
from mmbackbones.checkpoints.atomic import checksum_file, require_whole, write_whole, write_with_checksum
from mmbackbones.checkpoints.load import load_checkpoint
from mmbackbones.errors import InputError

pytestmark = pytest.mark.promise('atomic')
OLD, NEW = b'old' * 1000, b'new' * 5000


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_writes_file_and_checksum_as_sha256sum_reads_it(tmp_path):
    write_with_checksum(tmp_path / 'sub' / 'a.pth', NEW)
    assert set(contents(tmp_path / 'sub')) == {'a.pth', 'a.pth.sha256'}
    if shutil.which('sha256sum'):
        subprocess.run(['sha256sum', '-c', 'a.pth.sha256'], cwd=tmp_path / 'sub', check=True, capture_output=True)
    require_whole(tmp_path / 'sub' / 'a.pth', 'a')


def die_before_operation(number, folder):
    """SIGKILL before the n-th opening, renaming or removal of a file in this folder."""
    left = [number]

    def watch(event, args):
        if event in ('open', 'os.rename', 'os.remove') and str(folder) in str(args[0]):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def test_killed_at_any_operation_the_old_or_the_new_one_is_whole(tmp_path, figure):
    seen = set()
    for number in range(40):
        path = tmp_path / str(number) / 'a.pth'
        write_with_checksum(path, OLD)
        pid = os.fork()
        if pid == 0:
            die_before_operation(number, path.parent)
            write_with_checksum(path, NEW)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        require_whole(path, 'a')
        seen.add(path.read_bytes())
        if os.WIFEXITED(status):
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert seen == {OLD, NEW} and 5 < number < 39
    assert path.read_bytes() == NEW and checksum_file(path).is_file()
    figure(f'killed before each of {number} file operations')


def test_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / 'a.pth'
    write_with_checksum(path, OLD)
    before = contents(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(OLD) + 1, hard))
    try:
        with pytest.raises(OSError):
            write_with_checksum(path, NEW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == before


def mount_small_disk(folder):
    """In a mount namespace of this process's own."""
    libc = ctypes.CDLL(None)
    ids = {'uid_map': f'0 {os.getuid()} 1', 'setgroups': 'deny', 'gid_map': f'0 {os.getgid()} 1'}
    if libc.unshare(0x10000000 | 0x00020000):  # CLONE_NEWUSER | CLONE_NEWNS
        return False
    for name, text in ids.items():
        Path('/proc/self', name).write_text(text)
    return libc.mount(b'none', str(folder).encode(), b'tmpfs', 0, b'size=128k') == 0


def test_a_really_full_disk(tmp_path):
    """On a file system of 128 KiB, where this test may mount one."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if not mount_small_disk(tmp_path):
                os._exit(77)
            write_with_checksum(tmp_path / 'a.pth', b'o' * 50000)
            before = contents(tmp_path)
            try:
                write_with_checksum(tmp_path / 'a.pth', b'n' * 100000)
            except OSError as error:
                code = 0 if error.errno == errno.ENOSPC and contents(tmp_path) == before else 2
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 77:
        pytest.skip('no file system may be mounted here')
    assert code == 0


def test_what_the_disk_returns_is_compared(tmp_path, monkeypatch):
    write_whole(tmp_path / 'a', OLD)
    monkeypatch.setattr(files, 'sha256_of', lambda path: '0' * 64)
    with pytest.raises(OSError, match='does not read back'):
        write_whole(tmp_path / 'a', NEW)
    assert contents(tmp_path) == {'a': OLD}


@pytest.fixture
def saved(tmp_path) -> Path:
    torch.save({'weight': torch.arange(10000.0)}, tmp_path / 'a.pth')
    return tmp_path / 'a.pth'


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_flipped_bit_without_a_checksum_beside(saved):
    """torch itself reads it without complaint."""
    flip(saved, 20000)
    assert not torch.equal(torch.load(saved)['weight'], torch.arange(10000.0))
    with pytest.raises(InputError, match=r'a\.pth: damaged: the CRC-32 of its member a/data/0 is wrong'):
        load_checkpoint(str(saved))


@pytest.mark.parametrize('at', [0, 100, 20000, -30])
def test_flipped_bit_with_one(saved, at):
    write_with_checksum(saved, saved.read_bytes())
    load_checkpoint(str(saved))
    flip(saved, at)
    with pytest.raises(InputError, match=r'its SHA-256 is \w{64}, the one in a\.pth\.sha256 is \w{64}; damaged'):
        load_checkpoint(str(saved))


def test_unreadable_checksum(saved):
    checksum_file(saved).write_text('?')
    with pytest.raises(InputError, match='holds no SHA-256'):
        load_checkpoint(str(saved))


def test_archive_larger_inside_than_outside(tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.pth', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a/data.pkl', bytes(10_000_000))
    with pytest.raises(InputError, match='unpacks to 10,000,000 bytes'):
        load_checkpoint(str(tmp_path / 'a.pth'))


def test_checksum_that_was_asked_for(saved):
    good = files.sha256_of(saved)
    assert torch.equal(load_checkpoint(f'{saved}#sha256={good.upper()}').content['weight'], torch.arange(10000.0))
    with pytest.raises(InputError, match=f'is {good}, the one asked for is {"0" * 64}; another file, refused'):
        load_checkpoint(f'{saved}#sha256={"0" * 64}')
    with pytest.raises(InputError, match='expected 64 hex digits after #sha256='):
        load_checkpoint(f'{saved}#sha256=12ab')
