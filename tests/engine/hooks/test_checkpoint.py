"""Checkpoints of our hook: plain, whole, taken up bit for bit, and no lever for whoever crafts one."""

import errno
import random
import shutil
import signal

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from mmbackbones.checkpoints import atomic
from mmbackbones.checkpoints.atomic import checksum_file, require_whole, write_with_checksum
from mmbackbones.checkpoints.read import read_checkpoint
from mmbackbones.checkpoints.resume import find_newest
from mmbackbones.engine.hooks.checkpoint import CheckpointHook
from mmbackbones.engine.hooks.preemption import PreemptionHook
from mmbackbones.errors import InputError, Preempted
from tests.engine.runs import Net, make
from tests.reliability.harness import same_bits


class Noisy(torch.utils.data.Dataset):
    """Draws from every random state of the process, as transforms do."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        draws = random.gauss(0, 1) + np.random.randn() + torch.randn(()).item()
        return dict(inputs=torch.tensor([float(index), draws]))


class Dropping(Net):
    def forward(self, inputs, mode='tensor'):
        return super().forward(nn.functional.dropout(inputs, 0.5, training=True), mode)


class Seeded(dict):
    """Arguments of `make` for a noisy training with our hook; every runner begins with the same weights."""

    def __init__(self, loop, interval=1, **hook):
        by_epoch = loop == 'epoch'
        hook = dict(type='mmbackbones.CheckpointHook', by_epoch=by_epoch, interval=interval, **hook)
        super().__init__(dataset=Noisy(), val=True, randomness=dict(seed=3), hooks=dict(checkpoint=hook))
        self.by_epoch = by_epoch

    def __call__(self, folder, length, **kwargs):
        folder.mkdir(exist_ok=True)
        torch.manual_seed(1)
        model = Dropping()
        length = dict(epochs=length) if self.by_epoch else dict(iters=length)
        return make(folder, model=model, **self, **length, **kwargs)


@pytest.mark.parametrize('loop, stop, end', [('iteration', 5, 7), ('epoch', 1, 3)])
def test_resumed_run_is_the_uninterrupted_one(tmp_path, loop, stop, end):
    training = Seeded(loop)
    name = f'{"epoch" if loop == "epoch" else "iter"}_{{}}.pth'
    training(tmp_path / 'whole', end).train()
    training(tmp_path / 'parts', stop).train()
    training(tmp_path / 'parts', end, load_from=str(tmp_path / 'parts' / name.format(stop)), resume=True).train()
    whole, parts = (torch.load(tmp_path / folder / name.format(end)) for folder in ('whole', 'parts'))
    for key in ('state_dict', 'optimizer', 'param_schedulers', 'progress'):
        assert not same_bits(whole[key], parts[key], key)
    assert torch.equal(*(c['message_hub']['log_scalars']['train/loss']['values'] for c in (whole, parts)))

    spoilt = torch.load(tmp_path / 'parts' / name.format(stop))
    del spoilt['progress']  # else this test could not fail
    torch.save(spoilt, tmp_path / 'spoilt.pth')
    training(tmp_path / 'other', end, load_from=str(tmp_path / 'spoilt.pth'), resume=True).train()
    assert same_bits(torch.load(tmp_path / 'other' / name.format(end))['state_dict'], whole['state_dict'])


def test_holds_plain_data_alone(tmp_path):
    training = Seeded('iteration', save_best='mean', rule='greater')
    training(tmp_path / 'a', 4).train()
    files = sorted((tmp_path / 'a').glob('*.pth'))
    assert [path.name for path in files] == ['best_mean_iter_2.pth', *(f'iter_{i}.pth' for i in (1, 2, 3, 4))]
    for path in files:
        assert get_unsafe_globals_in_checkpoint(path) == []
        require_whole(path, 'a')
        assert checksum_file(path).is_file()
        assert read_checkpoint(path).left_out == []


class Victim(Hook):
    """Looks at the work dir at the moment of each saving."""

    def __init__(self, folder):
        self.folder, self.seen = folder, []

    def before_save_checkpoint(self, runner, checkpoint):
        self.seen.append(sorted(path.name for path in self.folder.glob('*.pth')))


@pytest.mark.promise('atomic')
def test_old_ones_go_after_the_new_one_is_there(tmp_path):
    training = Seeded('iteration', max_keep_ckpts=1)
    hook = Victim(tmp_path / 'a')
    training(tmp_path / 'a', 3, custom_hooks=[hook]).train()
    assert hook.seen == [[], ['iter_1.pth'], ['iter_2.pth']]
    assert sorted(path.name for path in (tmp_path / 'a').glob('*.pth*')) == ['iter_3.pth', 'iter_3.pth.sha256']


@pytest.mark.promise('atomic')
def test_full_disk_stops_the_run_and_keeps_the_old_one(tmp_path, monkeypatch):
    def full(path, data):
        if path.name == 'iter_3.pth':
            raise OSError(errno.ENOSPC, 'No space left on device')
        write_with_checksum(path, data)

    monkeypatch.setattr(atomic, 'write_with_checksum', full)
    with pytest.raises(InputError, match=r'cannot write .*iter_3\.pth: No space left on device; earlier checkpoints'):
        Seeded('iteration', max_keep_ckpts=1)(tmp_path / 'a', 4).train()
    found, skipped = find_newest(tmp_path / 'a')
    assert found == tmp_path / 'a' / 'iter_2.pth' and not skipped


def test_what_a_dead_run_left_is_removed_when_it_is_resumed(tmp_path):
    training = Seeded('iteration', max_keep_ckpts=1)
    folder = tmp_path / 'a'
    training(folder, 2).train()
    (folder / 'iter_1.pth').write_bytes(b'died before removing it')
    (folder / '.iter_3.pth.writing').write_bytes(b'died while writing it')
    training(folder, 3, load_from=str(folder / 'iter_2.pth'), resume=True).train()
    assert sorted(path.name for path in folder.glob('*.pth')) == ['iter_3.pth']
    assert not list(folder.glob('.*'))


@pytest.mark.promise('newest-whole')
def test_moved_work_dir(tmp_path):
    training = Seeded('iteration', max_keep_ckpts=1, save_best='mean', rule='greater')
    training(tmp_path / 'a', 2).train()
    assert (tmp_path / 'a' / 'last_checkpoint').read_text() == 'iter_2.pth'
    shutil.move(tmp_path / 'a', tmp_path / 'b')
    found, _ = find_newest(tmp_path / 'b')
    training(tmp_path / 'b', 4, load_from=str(found), resume=True).train()
    assert sorted(path.name for path in (tmp_path / 'b').glob('*.pth')) == ['best_mean_iter_2.pth', 'iter_4.pth']
    assert not (tmp_path / 'a').exists()


@pytest.mark.promise('removes-nothing')
@pytest.mark.parametrize('hook', ['CheckpointHook', 'mmbackbones.CheckpointHook'])
def test_a_crafted_file_removes_nothing(tmp_path, hook):
    """mmengine's hook removes the file that a resumed checkpoint calls its best, and those it calls outdated."""
    training = Seeded('iteration', save_best='mean', rule='greater', max_keep_ckpts=1)
    training['hooks']['checkpoint']['type'] = hook
    training(tmp_path / 'a', 2).train()
    (tmp_path / 'iter_').mkdir()
    victims = [tmp_path / 'precious.pth', tmp_path / 'a' / 'best_thesis.txt', tmp_path / 'a' / 'thesis.pth']
    for victim in victims:
        victim.write_text('precious')
    for victim in victims[:2]:
        checkpoint = torch.load(tmp_path / 'a' / 'iter_2.pth', weights_only=False)
        checkpoint['message_hub']['runtime_info'].update(
            best_ckpt=str(victim), best_score=-1.0, keep_ckpt_ids=['/../../precious', '../thesis', 2]
        )
        torch.save(checkpoint, tmp_path / 'crafted.pth')
        training(tmp_path / 'a', 4, load_from=str(tmp_path / 'crafted.pth'), resume=True).train()
        assert all(victim.read_text() == 'precious' for victim in victims)


class Terminate(Hook):
    """SIGTERM in the third iteration, or in validation."""

    def __init__(self, during):
        self.during = during

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.during == 'training' and runner.iter == 2:
            signal.raise_signal(signal.SIGTERM)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if self.during == 'validation':
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.promise('sigterm')
@pytest.mark.parametrize(
    'loop, during, newest, message',
    [
        ('iteration', 'training', 'iter_3.pth', 'stopped at iteration 3; the newest checkpoint is iter_3.pth'),
        ('iteration', 'validation', 'iter_2.pth', 'stopped at iteration 2; the newest checkpoint is iter_2.pth'),
        ('epoch', 'training', None, 'stopped at iteration 3; nothing is saved yet'),
        ('epoch', 'validation', 'epoch_1.pth', 'stopped at iteration 4; the newest checkpoint is epoch_1.pth'),
    ],
)
def test_sigterm_saves_what_can_be_taken_up(tmp_path, loop, during, newest, message):
    before = signal.getsignal(signal.SIGTERM)
    training = Seeded(loop, interval=100)
    training['hooks']['preemption'] = dict(type='mmbackbones.PreemptionHook')
    end = 2 if loop == 'epoch' else 7
    try:
        with pytest.raises(Preempted, match=message) as stopped:
            training(tmp_path / 'a', end, custom_hooks=[Terminate(during)]).train()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped.value.exit_code == 75
    found, _ = find_newest(tmp_path / 'a')
    assert found == (newest and tmp_path / 'a' / newest)
    if found:
        training(tmp_path / 'whole', end).train()
        training(tmp_path / 'a', end, load_from=str(found), resume=True).train()
        name = f'epoch_{end}.pth' if loop == 'epoch' else f'iter_{end}.pth'
        assert not same_bits(*(torch.load(tmp_path / folder / name)['state_dict'] for folder in ('whole', 'a')))
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize('hook, option', [(PreemptionHook, dict(agree_every=0))])
def test_options_out_of_range(hook, option):
    with pytest.raises(InputError, match='must be'):
        hook(**option)
    assert CheckpointHook().backend_args == dict(backend='mmbackbones.verified')
