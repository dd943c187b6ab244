"""Runs on the long-range task: curricula, images by worker processes, resumption, precision, runs at a time."""

import hashlib
import math

import pytest
import torch
import torch.nn.functional as F

from mmbackbones.analysis.long_range import records
from mmbackbones.analysis.long_range import train as training
from mmbackbones.analysis.long_range.images import training_images
from mmbackbones.analysis.long_range.net import LongRangeNet
from mmbackbones.analysis.long_range.records import HowToRun, run_missing, to_record
from mmbackbones.analysis.long_range.runs import MOST_STEPS, TEST_SEEDS, LongRangeRun
from mmbackbones.analysis.long_range.state import StateFile
from mmbackbones.analysis.long_range.train import train, train_and_test
from mmbackbones.datasets.long_range import LongRangeTask
from mmbackbones.errors import InputError
from mmbackbones.evaluation import environment
from mmbackbones.evaluation.records import read_records

ROW, ROUTED = LongRangeTask('row', 16), LongRangeTask('routed', 64)
FIRST_SETTINGS = dict(
    task='row',
    tokens=16,
    cue_side='left',
    distractors=0,
    noise=0.1,
    shuffled=False,
    mixer='dw3',
    seed=0,
    steps=300,
    position='none',
    images=256,
)


def digest(net):
    found = hashlib.sha256()
    for parameter in net.parameters():
        found.update(parameter.detach().numpy().tobytes())
    return found.hexdigest()


class TestRecords:
    def test_defaults_are_those_of_the_first_release(self):
        """What a record of then says; anything more would train all of them again."""
        run = LongRangeRun(ROW, 'dw3')
        assert run.settings() == FIRST_SETTINGS
        record = to_record(run, dict(bins=[], seconds=1.0))
        assert (record['config_hash'], record['data_fingerprint']) == ('c70b1e3a8ee5', 'bab874de1f9a')
        assert (record['recipe'], record['precision']) == ('steps=300 position=none', 'fp32')
        assert record['device'].endswith(' CPU')

    def test_settings_that_differ_are_named(self):
        task = LongRangeTask('routed', (16, 32), copies=3)
        run = LongRangeRun(task, 'attn', curriculum='grid', batch=4, draw='per-step', precision='bf16')
        more = dict(curriculum='grid', curriculum_share=0.5, batch=4, draw='per-step', precision='bf16', copies=3)
        assert {key: run.settings()[key] for key in more} == more and run.settings()['tokens'] == [16, 32]
        record = to_record(run, dict(bins=[], seconds=1.0))
        named = 'steps=300 position=none curriculum=grid curriculum_share=0.5 batch=4 draw=per-step'
        assert (record['recipe'], record['precision']) == (named, 'bf16')
        other = to_record(LongRangeRun(LongRangeTask('routed', (16, 32)), 'attn'), dict(bins=[], seconds=1.0))
        assert record['data_fingerprint'] != other['data_fingerprint']

    def test_commit_is_that_of_the_start(self, monkeypatch, tmp_path):
        found = iter(['at the start', 'while it trained'])
        monkeypatch.setattr(environment, 'commit', lambda: next(found))
        monkeypatch.setattr(records, 'commit', environment.commit)
        assert HowToRun().run(LongRangeRun(ROW, 'identity', steps=1, images=1), tmp_path)['commit'] == 'at the start'


class TestCurriculum:
    def stages(self, curriculum, task=ROUTED, **options):
        run = LongRangeRun(task, 'attn', steps=100, curriculum=curriculum, **options)
        stages = [run.stage(step) for step in range(100)]
        assert all(stage == (run.task, run.batch_size) for stage in stages[50:])  # the last half is the task itself
        assert len(dict.fromkeys(stages[:50])) == 5 and all(len(set(stages[i : i + 10])) == 1 for i in range(0, 50, 10))
        return stages[:50:10]

    def test_grid(self):
        stages = self.stages('grid')
        assert [(task.tokens, size) for task, size in stages] == [(16, 32), (21, 18), (28, 10), (37, 5), (49, 3)]
        assert {(task.task, task.copies, task.reach) for task, _ in stages} == {('routed', 1, None)}
        wide = self.stages('grid', LongRangeTask('routed', (32, 64)))
        assert wide[0][0].tokens == (16, 32) and wide[0][1] == 8

    def test_distance(self):
        assert [task.reach for task, _ in self.stages('distance')] == [4, 7, 12, 21, 36]

    def test_copies(self):
        assert [task.copies for task, _ in self.stages('copies')] == [341, 106, 33, 10, 3]

    def test_share(self):
        run = LongRangeRun(ROUTED, 'attn', steps=100, curriculum='distance', curriculum_share=0.9)
        assert run.stage(89)[0].reach == 36 and run.stage(90)[0].reach is None

    def test_training_follows_it_and_the_test_does_not(self, monkeypatch):
        seen = []

        def batch(task, size, generator):
            seen.append((task.tokens, size))
            return original(task, size, generator)

        original = LongRangeTask.batch
        monkeypatch.setattr(LongRangeTask, 'batch', batch)
        task = LongRangeTask('routed', 32)
        run = LongRangeRun(task, 'identity', steps=3, images=4, curriculum='grid', curriculum_share=0.4)
        result = train_and_test(run)
        assert seen == [(16, 16), (28, 5), (32, 4), (32, 4)] and result['bins'][-1]['last'] == 31

    def test_batch_without_shapes(self):
        """A short reach may leave none; the loss stays finite."""
        logits, labels = torch.zeros(1, 2, 2, 5), torch.full((1, 2, 2), 4)
        assert training.long_range_loss(logits, labels).item() == pytest.approx(0.3 * torch.tensor(5.0).log().item())


class TestImages:
    RUN = LongRangeRun(ROW, 'identity', seed=2, steps=6, draw='per-step', curriculum='distance', batch=2)

    def drawn(self, **options):
        return [batch.images for batch in training_images(self.RUN, torch.Generator(), **options)]

    def test_are_the_same_for_any_number_of_workers_and_from_any_step(self):
        before = torch.get_rng_state()
        alone, helped, later = self.drawn(), self.drawn(workers=2), self.drawn(first=4)
        assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(alone[4:], later, strict=True))
        assert len(torch.cat(alone).flatten(1).unique(dim=0)) == 12
        assert torch.equal(before, torch.get_rng_state())

    def test_seeds_of_steps_are_no_seeds_of_tests(self):
        last = TEST_SEEDS // MOST_STEPS - 1
        assert last * MOST_STEPS + MOST_STEPS - 1 < TEST_SEEDS
        with pytest.raises(InputError, match=f'seed {last + 1} drawn per-step, expected 0 to {last}'):
            LongRangeRun(ROW, 'identity', seed=last + 1, draw='per-step')

    def test_drawn_on_the_device(self):
        run = LongRangeRun(ROW, 'identity', seed=2, steps=6, draw='on-device', curriculum='distance', batch=2)
        found = [batch.images for batch in training_images(run, torch.Generator())]
        assert all(torch.equal(a, b) for a, b in zip(self.drawn(), found, strict=True))  # this device is the CPU

    def test_workers_are_refused_where_they_would_change_the_images(self):
        with pytest.raises(InputError, match='2 workers with images drawn in-turn, expected them drawn per-step'):
            train(LongRangeRun(ROW, 'identity', steps=1), workers=2)


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    'options',
    [dict(), dict(draw='per-step', curriculum='copies', precision='bf16', task=LongRangeTask('routed', 16))],
    ids=str,
)
def test_resumed_run_is_the_unbroken_one(options, tmp_path):
    run = LongRangeRun(**{'task': ROW, 'mixer': 'dw3', 'steps': 7, 'batch': 2, 'images': 4, **options})
    saved = StateFile(tmp_path / 'state.pt', 2)
    seen = []

    def stop(step, loss):
        seen.append(step)
        if step == 5:
            raise Stop

    with pytest.raises(Stop):
        train(run, stop, saved=saved)
    resumed = train(run, lambda step, loss: seen.append(step), saved=saved)
    unbroken = train(run)
    assert seen == [1, 2, 3, 4, 5, 5, 6, 7]  # step 5 came after the last state
    assert digest(resumed.net) == digest(unbroken.net) and resumed.losses == unbroken.losses
    assert torch.equal(resumed.generator.get_state(), unbroken.generator.get_state())
    again = train(run, lambda step, loss: seen.append(step), saved=saved)  # the last state is that of the end
    assert len(seen) == 8 and digest(again.net) == digest(unbroken.net)

    with pytest.raises(InputError, match='the state of another run, which differs in seed'):
        train(LongRangeRun(**{**vars(run), 'seed': 1}), saved=saved)
    whole = saved.path.read_bytes()
    saved.path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match='damaged, refused'):
        train(run, saved=saved)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['state.pt', 'state.pt.sha256']


def test_stopped_command_goes_on(tmp_path, monkeypatch, capsys):
    run, how = LongRangeRun(ROW, 'dw3', steps=4, batch=2, images=4), HowToRun(save_every=2)
    records = tmp_path / 'records.jsonl'

    def stop(training, images, labels):
        if training.step == 3:
            raise Stop
        return learn(training, images, labels)

    learn = training.Training.learn
    with monkeypatch.context() as patched:
        patched.setattr(training.Training, 'learn', stop)
        with pytest.raises(Stop):
            run_missing([run], records, how)
    assert not records.exists() and len(list((tmp_path / 'unfinished').glob('*.pt'))) == 1
    steps = []
    monkeypatch.setattr(training.Training, 'learn', lambda *args: steps.append(args[0].step) or learn(*args))
    (record,) = run_missing([run], records, how)
    assert steps == [2, 3] and not (tmp_path / 'unfinished').exists()
    expected = train_and_test(run)
    assert record['result']['loss'] == expected['loss'] and record['result']['bins'] == expected['bins']
    assert '[1/1] dw3, seed 0: ' in capsys.readouterr().out


@pytest.mark.slow
def test_runs_at_a_time_are_those_alone(tmp_path):
    """A run that fails beside another does not take it along."""
    runs = [LongRangeRun(ROW, mixer, steps=2, batch=2, images=4) for mixer in ('dw3', 'dw7')]
    (alone,) = run_missing(runs[:1], tmp_path / 'alone.jsonl')
    how, path = HowToRun(jobs=2), tmp_path / 'records.jsonl'
    damaged = how.state_file(runs[1], tmp_path).path
    damaged.parent.mkdir()
    damaged.write_bytes(b'PK')
    damaged.with_name(f'{damaged.name}.sha256').write_text('0' * 64)
    with pytest.raises(InputError, match=r'dw7.*damaged, refused'):
        run_missing(runs, path, how)
    (beside,) = read_records(path)
    assert all(beside['result'][key] == alone['result'][key] for key in ('loss', 'bins', 'parameters'))
    assert beside['settings'] == alone['settings'] and damaged.exists()


@pytest.mark.parametrize('mixer', ['dw3', 'ss2d'])
def test_defaults_train_as_the_first_release_did(mixer):
    """Its loop, written out; the committed figures come from it."""
    run = LongRangeRun(ROW, mixer, seed=4, steps=3)
    torch.manual_seed(4)
    net = LongRangeNet(mixer)
    generator = torch.Generator().manual_seed(4)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 3, 0.5 * (1 + math.cos(math.pi * step / 3)))
    )
    for _ in range(3):
        batch = ROW.batch(16, generator)
        loss = F.cross_entropy(net(batch.images).flatten(0, 2), batch.labels.flatten(), reduction='none')
        other = (batch.labels == 4).flatten()
        optimizer.zero_grad()
        (loss[~other].mean() + 0.3 * loss[other].mean()).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    assert digest(train(run).net) == digest(net)


@pytest.mark.parametrize('mixer', ['attn', 'ss2d', 'image-max'])
def test_autocast_keeps_weights_and_state_in_float32(mixer):
    run = LongRangeRun(ROW, mixer, steps=2, batch=2, precision='bf16')
    half, full = train(run), train(LongRangeRun(ROW, mixer, steps=2, batch=2))
    assert {parameter.dtype for parameter in half.net.parameters()} == {torch.float32}
    assert {value.dtype for state in half.optimizer.state.values() for value in state.values()} == {torch.float32}
    assert half.losses != full.losses and half.losses == pytest.approx(full.losses, rel=0.02)
    with training.autocast(run):
        assert half.net(torch.zeros(1, 3, 64, 64)).dtype == torch.bfloat16


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'fp16'])
@pytest.mark.parametrize('draw', ['per-step', 'on-device'])
def test_on_cuda(precision, draw, tmp_path):
    """It trains as the CPU does, starts from the same weights, and goes on from a state."""
    options = dict(task=ROW, mixer='ss2d', steps=6, images=8, draw=draw, precision=precision, device='cuda')
    run, saved = LongRangeRun(**options), StateFile(tmp_path / 'state.pt', 4)

    def stop(step, loss):
        if step == 5:
            raise Stop

    with pytest.raises(Stop):
        train(run, stop, saved=saved)
    resumed, unbroken = train(run, saved=saved), train(run)
    assert resumed.losses == pytest.approx(unbroken.losses, rel=1e-2)  # some sums on a GPU have no fixed order
    assert {parameter.dtype for parameter in unbroken.net.parameters()} == {torch.float32}
    if draw == 'per-step':
        on_cpu = train(LongRangeRun(**{**options, 'device': 'cpu', 'precision': 'fp32'}))
        assert unbroken.losses[0] == pytest.approx(on_cpu.losses[0], rel=1e-4 if precision == 'fp32' else 3e-2)
    assert train_and_test(run, workers=2 if draw == 'per-step' else 0)['device'] == 'cuda'


@pytest.mark.parametrize('task', ['row', 'routed', 'single'])
def test_scores_of_grids_that_are_not_square(task):
    run = LongRangeRun(LongRangeTask(task, (16, 24)), 'dw3', steps=1, batch=2, images=4)
    bins = train_and_test(run)['bins']
    assert bins[-1]['last'] == 23 and sum(each['total'] for each in bins) > 4


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(curriculum='noise'), "curriculum 'noise' unknown; expected one of none, grid, distance, copies"),
        (dict(curriculum='copies'), 'curriculum copies: row and distractors allow no copies'),
        (dict(curriculum='grid', curriculum_share=1.0), 'a curriculum of 1.0 of the steps, expected above 0 and below'),
        (dict(curriculum_share=0.3), 'a share of 0.3 for no curriculum'),
        (dict(batch=1), 'a batch of 1 images, expected 2 or more'),
        (dict(draw='ahead'), "draw 'ahead' unknown; expected one of in-turn, per-step, on-device"),
        (dict(draw='per-step', steps=MOST_STEPS + 1), '100001 steps drawn per-step, expected up to 100000'),
        (dict(precision='fp16'), 'precision fp16 on a CPU, expected fp32 or bf16'),
        (dict(precision='fp8'), "precision 'fp8' unknown"),
        (dict(device='tpu'), "device 'tpu' unknown; expected one of cpu, cuda"),
    ],
)
def test_bad_runs(options, message):
    with pytest.raises(InputError) as caught:
        LongRangeRun(**{'task': ROW, 'mixer': 'dw3', **options})
    assert message in str(caught.value) and '\n' not in str(caught.value)
