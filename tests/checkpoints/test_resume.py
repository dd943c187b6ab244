"""Which checkpoint a training is taken up from."""

import os

import pytest
import torch

from mmbackbones.checkpoints.atomic import checksum_file, write_with_checksum
from mmbackbones.checkpoints.resume import find_newest

pytestmark = pytest.mark.promise('newest-whole')


@pytest.fixture
def folder(tmp_path):
    """Three checkpoints in the order of their ages; the newest is named."""
    for age, number in enumerate((100, 200, 300)):
        add(tmp_path, number, age)
    (tmp_path / 'last_checkpoint').write_text('iter_300.pth')
    return tmp_path


def add(folder, number, age, checksum=True):
    path = folder / f'iter_{number}.pth'
    torch.save(dict(state_dict=dict(w=torch.arange(1000.0))), path)
    if checksum:
        write_with_checksum(path, path.read_bytes())
    os.utime(path, (age, age))
    return path


def damage(path):
    data, age = bytearray(path.read_bytes()), path.stat().st_mtime
    data[2000] ^= 1
    path.write_bytes(data)
    os.utime(path, (age, age))


def test_the_named_one(folder):
    assert find_newest(folder) == (folder / 'iter_300.pth', [])


def test_nothing(tmp_path):
    torch.save(dict(w=torch.ones(1)), tmp_path / 'best_mIoU_iter_1.pth')
    assert find_newest(tmp_path) == (None, []) == find_newest(tmp_path / 'nowhere')


@pytest.mark.parametrize('checksum', [True, False])
def test_damaged_ones_are_skipped_and_named(folder, checksum):
    for number in (300, 200):
        if not checksum:
            checksum_file(folder / f'iter_{number}.pth').unlink()
        damage(folder / f'iter_{number}.pth')
    (folder / 'last_checkpoint').write_text('')
    found, skipped = find_newest(folder)
    assert found == folder / 'iter_100.pth' and len(skipped) == 2
    assert all('skipped a damaged checkpoint' in text for text in skipped)
    assert 'iter_300.pth' in skipped[0] and 'iter_200.pth' in skipped[1]
    damage(folder / 'iter_100.pth')
    assert find_newest(folder)[0] is None


@pytest.mark.parametrize('content', [b'', b'cut'])
def test_cut_short(folder, content):
    checksum_file(folder / 'iter_300.pth').unlink()
    (folder / 'iter_300.pth').write_bytes(content)
    found, skipped = find_newest(folder)
    assert found == folder / 'iter_200.pth' and len(skipped) == 1


def test_one_that_died_before_it_was_named(folder):
    add(folder, 400, 9, checksum=False)
    assert find_newest(folder)[0].name == 'iter_400.pth'


def test_leftovers_of_an_earlier_run_in_the_same_folder(folder):
    add(folder, 50, 9)
    (folder / 'last_checkpoint').write_text('iter_50.pth')
    assert find_newest(folder)[0].name == 'iter_50.pth'
    damage(folder / 'iter_50.pth')
    assert find_newest(folder)[0].name == 'iter_300.pth'


def test_copied_folder_with_new_ages(folder):
    for number, age in ((300, 5), (200, 7), (100, 9)):
        os.utime(folder / f'iter_{number}.pth', (age, age))
    assert find_newest(folder)[0].name == 'iter_300.pth'


@pytest.mark.parametrize('form', ['/gone/{}', '{}\n', 'sub/../{}'])
def test_forms_of_the_pointer(folder, form):
    (folder / 'last_checkpoint').write_text(form.format('iter_200.pth'))
    os.utime(folder / 'iter_300.pth', (0, 0))
    assert find_newest(folder)[0].name == 'iter_200.pth'
