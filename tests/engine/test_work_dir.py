"""One training at a time in a work dir, and the checkpoints of one training in it."""

import os
import signal

import pytest

from mmbackbones.engine import work_dir as module
from mmbackbones.engine.work_dir import only_training, running_training, set_earlier_aside
from mmbackbones.errors import InputError


@pytest.fixture
def elsewhere(tmp_path):
    """Another process that trains in ``tmp_path / 'w'`` until it is killed."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        with only_training(tmp_path / 'w'):
            os.fork()  # as a worker of a data loader, which outlives a killed training for some seconds
            os.write(told, b'.')
            signal.pause()
        os._exit(0)
    os.read(ready, 2)
    os.close(ready)
    os.close(told)
    yield pid
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_second_training_is_refused_and_a_killed_one_leaves_no_lock(tmp_path, elsewhere):
    for path in (tmp_path / 'w', tmp_path / '.' / 'w'):
        running = rf'another training is running in it \(process {elsewhere} on '
        with pytest.raises(InputError, match=running), only_training(path):
            pass
    assert running_training(tmp_path / 'w').startswith(f'process {elsewhere} on ')
    os.kill(elsewhere, signal.SIGKILL)
    os.waitid(os.P_PID, elsewhere, os.WEXITED | os.WNOWAIT)
    assert running_training(tmp_path / 'w') is None
    with only_training(tmp_path / 'w') as warning:
        assert warning is None
    assert running_training(tmp_path / 'new') is None and not (tmp_path / 'new').exists()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, 'Operation not supported')

    monkeypatch.setattr(module.fcntl, 'lockf', unsupported)
    with only_training(tmp_path / 'w') as warning:
        assert 'has no locks (Operation not supported)' in warning
    assert running_training(tmp_path / 'w') is None


@pytest.fixture
def trained(tmp_path):
    names = 'iter_2.pth', 'iter_2.pth.sha256', 'iter_10.pth', 'best_mIoU_iter_2.pth', 'last_checkpoint', 'own.pth'
    for name in names:
        (tmp_path / name).write_text(name)
    (tmp_path / 'final').mkdir()
    (tmp_path / 'final' / 'run.json').write_text('{}')
    return tmp_path


def left(folder):
    return {path.name for path in folder.iterdir()} - {'.earlier'}


def test_a_new_training_sets_an_earlier_one_aside(trained):
    (sentence,) = set_earlier_aside([trained])
    assert left(trained) == {'own.pth'}
    (aside,) = (trained / '.earlier').iterdir()
    assert str(aside) in sentence and 'best_mIoU_iter_2.pth, iter_10.pth, iter_2.pth, last_checkpoint' in sentence
    assert (aside / 'iter_2.pth').read_text() == 'iter_2.pth' and (aside / 'iter_2.pth.sha256').exists()
    assert (aside / 'final' / 'run.json').exists()
    assert set_earlier_aside([trained]) == []
    (trained / 'iter_4.pth').touch()
    assert set_earlier_aside([trained], resumed='elsewhere/iter_3.pth')
    assert len(list((trained / '.earlier').iterdir())) == 2


def test_a_resumed_training_keeps_what_it_goes_on_from(trained):
    before = left(trained)
    assert set_earlier_aside([trained], resumed=str(trained / 'iter_10.pth')) == [] and left(trained) == before
    (sentence,) = set_earlier_aside([trained], resumed=str(trained / 'iter_2.pth'))
    assert 'iter_10.pth' in sentence and left(trained) == before - {'iter_10.pth'}


def test_checkpoints_in_another_folder(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp('checkpoints')
    (folder / 'iter_4.pth').touch()
    before = left(trained)
    assert set_earlier_aside([trained, folder], resumed=str(folder / 'iter_4.pth')) == []
    assert left(trained) == before and len(set_earlier_aside([trained, folder])) == 2


def test_weights_from_the_own_work_dir_are_refused(trained):
    before = left(trained)
    with pytest.raises(InputError, match=r'load_from=.*iter_10\.pth: lies in the work dir'):
        set_earlier_aside([trained], load_from=str(trained / 'iter_10.pth'))
    assert left(trained) == before and set_earlier_aside([trained], load_from=str(trained / 'own.pth'))
