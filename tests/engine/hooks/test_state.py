"""What hooks remember survives an interruption: early stopping, averages, best scores, counters, own hooks."""

import signal

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EarlyStoppingHook, EMAHook, Hook

from mmbackbones.engine.hooks.numerics import NumericsHook
from mmbackbones.engine.hooks.state import restore_states
from mmbackbones.engine.runner import Runner
from mmbackbones.errors import InputError, Preempted
from tests.engine.runs import Net, make
from tests.reliability.harness import same_bits

SCORES = [0.1, 0.5, 0.4, 0.45, 0.6, 0.2, 0.3, 0.1, 0.1, 0.1]


class Scripted(BaseMetric):
    """Scores by epoch. ``seen`` has the epochs of all validations."""

    seen: list[int] = []

    def __init__(self, runner):
        super().__init__()
        self.runner = runner

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        step = self.runner.epoch or self.runner.iter // 4
        self.seen.append(step)
        return dict(acc=SCORES[step - 1])


class Counting(Hook):
    """A hook of a user, which counts validations and images."""

    def __init__(self):
        self.validations = 0

    def after_val_epoch(self, runner, metrics=None):
        self.validations += 1

    def state_dict(self):
        return dict(validations=self.validations)

    def load_state_dict(self, state):
        self.validations = state['validations']


def train(folder, end, resumed=None, early=None, hooks=(), loop='epoch', seed=0, schedule=None, **checkpoint):
    by_epoch = loop == 'epoch'
    torch.manual_seed(seed)
    runner = make(
        folder,
        epochs=end if by_epoch else None,
        iters=4 * end,
        val=True,
        randomness=dict(seed=0),
        load_from=resumed and str(folder / resumed),
        resume=bool(resumed),
        hooks=dict(
            checkpoint=dict(
                type='mmbackbones.CheckpointHook', by_epoch=by_epoch, **{'interval': 1 if by_epoch else 4, **checkpoint}
            )
        ),
        custom_hooks=[*([dict(type='EarlyStoppingHook', monitor='acc', **early)] if early else []), *hooks],
    )
    if not by_epoch:
        runner._train_loop['val_interval'] = 4
    runner._val_evaluator = runner.build_evaluator([Scripted(runner)])
    if schedule:
        runner.param_schedulers = [schedule]
    runner.train()
    return runner


EARLY = dict(patience=3, min_delta=0.1)


@pytest.mark.parametrize('loop', ['epoch', 'iteration'])
@pytest.mark.parametrize('save_best', [None, 'acc'])
def test_early_stopping_ends_where_the_uninterrupted_run_ends(tmp_path, loop, save_best):
    best = dict(save_best=save_best) if save_best else {}
    whole = train(tmp_path / 'whole', 10, early=EARLY, loop=loop, **best)
    end = (whole.epoch, whole.iter)
    assert whole.iter == 4 * 8  # the score of epoch 5 is the best one, and three validations are no better
    name = 'epoch_{}.pth' if loop == 'epoch' else 'iter_{}.pth'
    step = 1 if loop == 'epoch' else 4
    for stop in (4, 7, 8):
        folder = tmp_path / str(stop)
        train(folder, stop, early=EARLY, loop=loop, **best)
        resumed = train(folder, 10, name.format(stop * step), early=EARLY, loop=loop, **best)
        assert (resumed.epoch, resumed.iter) == end, stop
        found, wanted = (
            sorted(path.name for path in place.glob('best_*.pth')) for place in (folder, tmp_path / 'whole')
        )
        assert found == wanted and len(found) == bool(save_best)


def test_a_schedule_that_waits_for_a_plateau(tmp_path):
    plateau = dict(type='ReduceOnPlateauLR', monitor='acc', rule='greater', patience=1, by_epoch=True, end=99)
    whole = train(tmp_path / 'whole', 6, schedule=dict(plateau), save_best='acc')
    for stop in (2, 4, 5):
        train(tmp_path / str(stop), stop, schedule=dict(plateau), save_best='acc')
        resumed = train(tmp_path / str(stop), 6, f'epoch_{stop}.pth', schedule=dict(plateau), save_best='acc')
        assert resumed.optim_wrapper.get_lr() == whole.optim_wrapper.get_lr(), stop


def test_a_validation_is_repeated_only_if_something_learns_from_it(tmp_path):
    Scripted.seen.clear()
    train(tmp_path, 2)
    train(tmp_path, 3, 'epoch_2.pth')
    assert Scripted.seen == [1, 2, 3]
    train(tmp_path, 4, 'epoch_3.pth', save_best='acc')
    assert Scripted.seen == [1, 2, 3, 3, 4]


def test_averages_counters_and_own_hooks(tmp_path):
    def hooks():
        return [EMAHook(momentum=0.1), NumericsHook(max_skips=3), Counting()]

    def numerics(runner):
        return next(hook for hook in runner.hooks if isinstance(hook, NumericsHook))

    whole = train(tmp_path / 'whole', 4, hooks=hooks())
    counting = hooks()
    counting[1].skipped, counting[1].amp_skipped = 2, 7
    train(tmp_path / 'part', 2, hooks=counting)
    rest = train(tmp_path / 'part', 4, 'epoch_2.pth', hooks=hooks())
    assert (numerics(rest).skipped, numerics(rest).amp_skipped) == (2, 7)
    assert rest.hooks and next(hook for hook in rest.hooks if isinstance(hook, Counting)).validations == 4
    for key in ('state_dict', 'ema_state_dict', 'optimizer'):
        ours, theirs = (torch.load(tmp_path / name / 'epoch_4.pth')[key] for name in ('part', 'whole'))
        assert not same_bits(ours, theirs, key)
    assert whole.epoch == 4


class TerminateInValidation(Hook):
    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if runner.epoch == 2:
            signal.raise_signal(signal.SIGTERM)


def test_sigterm_in_validation_keeps_model_and_average_apart(tmp_path):
    """In a validation the two have changed places."""
    before = signal.getsignal(signal.SIGTERM)
    ema = dict(type='EMAHook', momentum=0.1)
    preemption = dict(type='mmbackbones.PreemptionHook')
    try:
        with pytest.raises(Preempted):
            train(tmp_path / 'part', 4, hooks=[dict(ema), preemption, TerminateInValidation()], interval=100)
    finally:
        signal.signal(signal.SIGTERM, before)
    train(tmp_path / 'part', 4, 'epoch_2.pth', hooks=[dict(ema)])
    train(tmp_path / 'whole', 4, hooks=[dict(ema)])
    for key in ('state_dict', 'ema_state_dict'):
        ours, theirs = (torch.load(tmp_path / name / 'epoch_4.pth')[key] for name in ('part', 'whole'))
        assert not same_bits(ours, theirs, key)


def test_states_that_do_not_fit(tmp_path):
    runner = make(tmp_path, custom_hooks=[Counting(), EarlyStoppingHook('acc')])
    restore_states(runner, None)  # of a checkpoint without: both begin anew
    with pytest.raises(InputError, match='state of Counting in the checkpoint cannot be restored'):
        restore_states(runner, dict(Counting=dict(other=1)))


def test_a_test_runs_without_the_hooks_of_a_training(tmp_path):
    """Early stopping needs a training loop, and an average would take the place of the weights tested."""
    train(tmp_path, 2, hooks=[EMAHook(momentum=0.5)])
    saved = torch.load(tmp_path / 'epoch_2.pth')['state_dict']
    model = Net()
    runner = make(tmp_path, model=model, load_from=str(tmp_path / 'epoch_2.pth'))
    tested = Runner(
        model=model,
        work_dir=str(tmp_path),
        test_dataloader=runner._test_dataloader,
        test_cfg=dict(),
        test_evaluator=runner._test_evaluator,
        load_from=str(tmp_path / 'epoch_2.pth'),
        custom_hooks=[dict(type='EarlyStoppingHook', monitor='acc'), dict(type='EMAHook')],
        experiment_name=f'{tmp_path.name}_test',
    )
    assert not [hook for hook in tested.hooks if isinstance(hook, EarlyStoppingHook | EMAHook)]
    tested.test()
    assert not same_bits(saved, {key: value.cpu() for key, value in model.state_dict().items()})
