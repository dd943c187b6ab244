"""The synthetic long-range task: how far each mixer sees, what is said of it, and that near and far are told apart."""

import importlib.util
import json

import pytest
import torch

from mmbackbones.analysis.long_range.curves import Curve, curves, seed_interval
from mmbackbones.analysis.long_range.net import MIXERS, LongRangeNet, radius, receptive_field
from mmbackbones.analysis.long_range.records import bin_name, to_record
from mmbackbones.analysis.long_range.show import markdown
from mmbackbones.analysis.long_range.train import (
    LongRangeRun,
    accuracy_intervals,
    distance_bins,
    long_range_loss,
    runs_of,
    train,
    train_and_test,
)
from mmbackbones.datasets.long_range import BACKGROUND, LongRangeTask
from mmbackbones.engine.cli import run_command
from mmbackbones.errors import InputError
from mmbackbones.evaluation.records import RECORDS, read_records
from tests.conftest import ROOT

ROW_16 = LongRangeTask('row', 16)


class TestReach:
    """The input's gradient tells which tokens a net reads: the net around the mixer must add none."""

    @pytest.mark.parametrize(('mixer', 'tokens'), [('identity', 0), ('pointwise:ss2d', 0), ('dw3', 4), ('dw7', 12)])
    def test_radius(self, mixer, tokens):
        reach = receptive_field(LongRangeNet(mixer), 32, (16, 16))
        assert radius(reach, (16, 16)) == tokens
        assert reach.sum() == (2 * tokens + 1) ** 2

    @pytest.mark.parametrize('mixer', ['bissm', 'ss2d', 'attn'])
    def test_whole_image(self, mixer):
        assert receptive_field(LongRangeNet(mixer), 16, (5, 9)).all()

    @pytest.mark.parametrize(('mixer', 'causal'), [('ssm', True), ('causal-attn', True), ('ssm-reversed', False)])
    def test_one_half(self, mixer, causal):
        order = torch.arange(256).view(16, 16)
        here = order[5, 9]
        assert torch.equal(receptive_field(LongRangeNet(mixer), 16, (5, 9)), order <= here if causal else order >= here)

    def test_position_code_adds_no_reach(self):
        assert radius(receptive_field(LongRangeNet('dw3', 'sincos'), 16, (8, 8)), (8, 8)) == 4

    def test_a_norm_over_the_image_would_leak(self):
        class ImageNorm(torch.nn.Module):
            def forward(self, x):
                return torch.nn.functional.layer_norm(x, x.shape[1:])

        net = LongRangeNet('identity')
        net.blocks[0].mixer_norm = ImageNorm()
        assert receptive_field(net, 16, (8, 8)).all()

    def test_every_mixer_is_covered(self):
        assert {'identity', 'dw3', 'dw7', 'ssm', 'ssm-reversed', 'bissm', 'ss2d', 'attn', 'causal-attn'} <= set(MIXERS)


def test_position_code_tells_places_apart():
    image = torch.zeros(1, 3, 64, 64)
    plain, coded = (LongRangeNet('identity', position)(image) for position in ('none', 'sincos'))
    assert (plain == plain[:, :1, :1]).all()
    assert len(coded.flatten(0, 2).unique(dim=0)) == 256


def test_loss_weighs_background_by_three_tenths():
    labels = torch.full((1, 2, 2), BACKGROUND)
    labels[0, 0, 0] = 1
    logits = torch.zeros(1, 2, 2, 5)
    logits[..., BACKGROUND] = 9.0
    shape, other = 9 + torch.tensor(4.0).mul(torch.e**-9).log1p(), torch.tensor(4.0).mul(torch.e**-9).log1p()
    torch.testing.assert_close(long_range_loss(logits, labels), shape + 0.3 * other)


@pytest.mark.parametrize('tokens', [16, 32, 33, 34, 64])
def test_bins_hold_every_distance_once(tokens):
    bins = distance_bins(tokens)
    assert [distance for first, last in bins for distance in range(first, last + 1)] == list(range(1, tokens))
    assert bins[:3] == [(1, 4), (5, 8), (9, 12)]


def test_training_repeats_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, again = (train(LongRangeRun(ROW_16, 'dw3', steps=2)) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters()))
    other = train(LongRangeRun(ROW_16, 'dw3', seed=1, steps=2))
    assert not torch.equal(first.head.weight, other.head.weight)


@pytest.mark.parametrize('seed', [0, 1])
def test_test_images_are_none_of_the_training(seed, monkeypatch):
    drawn = []

    def batch(task, size, generator):
        drawn.append(original(task, size, generator))
        return drawn[-1]

    original = LongRangeTask.batch
    monkeypatch.setattr(LongRangeTask, 'batch', batch)
    train_and_test(LongRangeRun(ROW_16, 'identity', seed=seed, steps=3, images=48))
    images = torch.cat([each.images for each in drawn]).flatten(1)
    assert len(drawn) == 6 and len(images.unique(dim=0)) == len(images) == 96


def test_near_cues_are_learned():
    """In 150 steps a 3x3 convolution reads neighbouring cues, and nothing beyond its radius."""
    result = train_and_test(LongRangeRun(ROW_16, 'dw3', steps=150, images=64))
    near, *_, far = (each['correct'] / each['total'] for each in result['bins'])
    assert near > 0.35 and far < 0.31
    assert sum(each['total'] for each in result['bins']) > 2000


class TestStatistics:
    def test_seed_interval(self):
        mean, low, high = seed_interval([0.4, 0.5, 0.6])  # t(0.975, 2) = 4.3027
        half = 4.3027 * 0.1 / 3**0.5
        assert (mean, low, high) == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-5)
        assert seed_interval([0.9, 1.0]) == pytest.approx((0.95, 0.3147, 1.0), abs=1e-4)  # cut at 1

    def test_bootstrap_draws_images(self):
        """Ten shapes of an image that are right or wrong together count as one."""
        generator = torch.Generator().manual_seed(0)
        right = torch.rand(200, 1, generator=generator).lt(0.5).long()
        together = torch.stack((10 * right, torch.full_like(right, 10)), dim=-1)
        ((low, high),) = accuracy_intervals(together, 0)
        assert high - low == pytest.approx(2 * 1.96 * 0.5 / 200**0.5, rel=0.15)

    def test_curves(self):
        records = [record('ss2d', seed, 0.9 + 0.01 * seed, 0.8) for seed in range(3)]
        records += [record('dw7', 0, 0.9, 0.25), record('dw7', 0, 0.24, 0.26, shuffled=True)]
        scan, conv = curves(records)
        assert (scan.mixer, scan.seeds, scan.chance_seeds, scan.chance) == ('ss2d', 3, 0, [0.25, 0.25])
        assert scan.mean == pytest.approx([0.91, 0.8]) and scan.low[0] == pytest.approx(0.91 - 0.0248, abs=1e-4)
        assert (conv.seeds, conv.chance_seeds, conv.chance) == (1, 1, [0.24, 0.26])
        assert (conv.low, conv.high) == ([0.8, 0.15], [1.0, 0.35])  # one seed: the bootstrap of its record
        assert '| dw7 | 90.0 (80-100) | 25.0 (15-35) | 1 | above chance up to 4 tokens |' in markdown([scan, conv])

    @pytest.mark.parametrize(
        ('accuracies', 'says', 'never'),
        [
            ((0.25, 0.26, 0.24), 'did not train', 'up to'),
            ((1.0, 0.9, 0.26), 'above chance up to 8 tokens', 'trained in part'),
            ((1.0, 1.0, 0.9), 'above chance in every bin', 'up to'),
            ((0.6, 0.26, 0.25), 'above chance up to 4 tokens; trained in part', 'did not'),
            ((0.26, 0.25, 0.9), 'uneven: above chance only at 9-15', 'up to'),
        ],
    )
    def test_verdict(self, accuracies, says, never):
        verdict = curve(accuracies).verdict()
        assert verdict.startswith(says) and never not in verdict and 'short' not in verdict

    def test_verdict_of_the_far_end(self):
        assert curve((0.25, 0.26, 0.24), ceiling=0.25).verdict().startswith('nothing to learn')
        assert curve((0.5, 0.26, 0.26), ceiling=0.5).verdict() == 'above chance up to 4 tokens'


def curve(accuracies, ceiling=1.0):
    accuracies = list(accuracies)
    return Curve('ssm', ['1-4', '5-8', '9-15'], accuracies, accuracies, accuracies, [0.25] * 3, 3, 3, ceiling)


def record(mixer, seed, near, far, shuffled=False):
    arm = LongRangeRun(LongRangeTask('row', 16, shuffled=shuffled), mixer, seed)
    bins = [
        dict(
            first=first, last=last, correct=round(1000 * accuracy), total=1000, low=accuracy - 0.1, high=accuracy + 0.1
        )
        for (first, last), accuracy in (((1, 4), near), ((5, 15), far))
    ]
    return json.loads(json.dumps(to_record(arm, dict(bins=bins, seconds=1.0)), sort_keys=True))


def test_arms_come_with_their_shuffled_twins():
    found = runs_of(ROW_16, ['ss2d', 'dw3'], [0, 1], [1])
    assert [(arm.mixer, arm.seed, arm.task.shuffled) for arm in found] == [
        ('ss2d', 0, False),
        ('dw3', 0, False),
        ('ss2d', 1, False),
        ('dw3', 1, False),
        ('ss2d', 1, True),
        ('dw3', 1, True),
    ]
    assert found[0].steps == 300 and runs_of(ROW_16, ['dw3'], [0], steps=7)[0].steps == 7


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(mixer='dw5'), "mixer 'dw5' unknown; expected one of identity, dw3, dw7, "),
        (dict(position='rotary'), "position 'rotary' unknown; expected one of none, sincos"),
        (dict(steps=0), '0 steps and 256 test images, expected 1 or more'),
        (dict(images=0), '300 steps and 0 test images'),
        (dict(seed=2**32), 'seed 4294967296, expected 0 to '),
        (dict(seed=-1), 'seed -1, expected 0 to 2147483647'),
    ],
)
def test_bad_arms(options, message):
    with pytest.raises(InputError) as caught:
        LongRangeRun(**{'task': ROW_16, 'mixer': 'dw3', **options})
    assert message in str(caught.value) and '\n' not in str(caught.value)


class TestCommand:
    @pytest.fixture(scope='class')
    def command(self):
        spec = importlib.util.spec_from_file_location(
            'long_range_command', ROOT / 'tools' / 'analysis' / 'long_range.py'
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return lambda *argv: run_command(module.main, list(map(str, argv)))

    def test_runs_resumes_and_draws(self, command, tmp_path, capsys):
        out = tmp_path / 'out'
        few = ('--tokens', 16, '--steps', 2, '--images', 16, '--seeds', 0, '--out', out)
        command('--mixers', 'dw3', *few)
        said = capsys.readouterr().out
        assert '[1/2] dw3, seed 0: 1-4: ' in said and '[2/2] dw3, seed 0, cues shuffled: ' in said
        assert 'row tests distance in the image, not length of sequence' in said
        assert 'stages or real heads' in said.replace('\n', ' ') and 'bootstrap intervals over the test images' in said
        assert 'did not train' in said

        with (out / RECORDS).open('a') as file:
            file.write('{"kind": "long_range", "half')
        command('--mixers', 'dw3', 'identity', *few)
        printed = capsys.readouterr()
        assert printed.out.count('(done before)') == 2 and '[2/4] identity, seed 0: ' in printed.out
        assert 'half-written line' in printed.err
        records = read_records(out / RECORDS)
        assert [(each['settings']['mixer'], each['settings']['shuffled']) for each in records] == [
            ('dw3', False),
            ('dw3', True),
            ('identity', False),
            ('identity', True),
        ]
        assert all(each['kind'] == 'long_range' and each['versions']['torch'] == torch.__version__ for each in records)

        lines = (out / 'long_range_row.csv').read_text().splitlines()
        assert lines[0].startswith('task,tokens,cue_side,distractors,noise,position,steps,images,mixer,seed,shuffled,')
        assert len(lines) == 1 + 4 * len(distance_bins(16))
        assert (out / 'long_range_row.png').read_bytes().startswith(b'\x89PNG')
        assert all(
            word in (out / 'long_range_row.svg').read_text() for word in ('dw3', 'identity', 'chance, cues shuffled')
        )
        assert '| identity | ' in (out / 'long_range_row.md').read_text()

        command('--mixers', 'identity', *few)
        assert '│ dw3 ' in capsys.readouterr().out  # every mixer that was run is shown
        command('--mixers', 'dw3', *few, '--noise', 2, '--chance-seeds')  # another setting is another table
        said = capsys.readouterr().out
        assert '(done before)' not in said and 'identity' not in said

    @pytest.mark.parametrize(
        ('argv', 'message'),
        [
            (('--task', 'column'), "task 'column' unknown"),
            (('--mixers', 'ss2d', 'dw5'), "mixer 'dw5' unknown"),
            (('--mixers', 'dw3', 'dw3'), '--mixers dw3 dw3: one of them twice'),
            (('--seeds', '1', '1'), '--seeds 1 1: one of them twice'),
            (('--tokens', '128'), '128 tokens per side, expected 16 to 64'),
            (('--distractors', '9'), '9 distractors'),
            (('--noise', 'inf'), 'noise inf'),
            (('--cue-side', 'top'), "cue side 'top' unknown"),
            (('--position', 'rope'), "position 'rope' unknown"),
            (('--steps', '0'), '0 steps'),
            (('--threads', '0'), '--threads 0: expected 1 or more'),
        ],
    )
    def test_bad_usage(self, command, argv, message, tmp_path, capsys):
        with pytest.raises(SystemExit) as caught:
            command(*argv, '--out', tmp_path / 'out')
        assert caught.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith('error: ') and message in line
        assert not (tmp_path / 'out').exists()

    def test_out_is_a_file(self, command, tmp_path, capsys):
        (tmp_path / 'file').write_text('')
        with pytest.raises(SystemExit):
            command('--steps', 1, '--out', tmp_path / 'file')
        assert f'error: --out {tmp_path / "file"}: cannot be a folder' in capsys.readouterr().err


def row_accuracies(mixer, seed, shuffled=False):
    """Accuracy per distance bin on ``row`` at 32 tokens a side."""
    result = train_and_test(LongRangeRun(LongRangeTask('row', 32, shuffled=shuffled), mixer, seed))
    return {bin_name(each): each['correct'] / each['total'] for each in result['bins']}


def check_scan(seed):
    own, chance = (row_accuracies('ss2d', seed, shuffled) for shuffled in (False, True))
    assert list(own)[3:] == ['13-16', '17-24', '25-31']
    assert all(own[name] >= chance[name] + 0.30 for name in own), (own, chance)


def check_convolution(mixer, reach, seed):
    """Chance beyond the reach, well above it inside; the nearest bin shows that the arm trained."""
    own, chance = (row_accuracies(mixer, seed, shuffled) for shuffled in (False, True))
    beyond = [name for name in own if int(name.split('-')[0]) > reach]
    assert len(beyond) == {'dw3': 5, 'dw7': 3}[mixer]
    assert all(abs(own[name] - chance[name]) <= 0.03 for name in beyond), (own, chance)
    assert own['1-4'] >= chance['1-4'] + 0.15, (own, chance)


# Two classes, so that two workers share them.
@pytest.mark.slow
class TestScanSeesFar:
    def test_one_seed(self):
        check_scan(0)


@pytest.mark.slow
class TestConvolutionsSeeNear:
    @pytest.mark.parametrize(('mixer', 'reach'), [('dw3', 4), ('dw7', 12)])
    def test_one_seed(self, mixer, reach):
        check_convolution(mixer, reach, 0)


@pytest.mark.full
class TestThreeSeeds:
    @pytest.mark.parametrize('seed', [1, 2])
    def test_scan(self, seed):
        check_scan(seed)

    @pytest.mark.parametrize('seed', [1, 2])
    @pytest.mark.parametrize(('mixer', 'reach'), [('dw3', 4), ('dw7', 12)])
    def test_convolution(self, mixer, reach, seed):
        check_convolution(mixer, reach, seed)

    @pytest.mark.parametrize('seed', [0, 1, 2])
    def test_attention_routes(self, seed):
        task = LongRangeTask('routed', 16)
        (arm,) = runs_of(task, ['attn'], [seed])
        assert all(each['correct'] >= 0.90 * each['total'] for each in train_and_test(arm)['bins'])


@pytest.mark.full
class TestFarEnds:
    """Trained arms at the end of each dial; that no observer at all beats chance there is shown with the data."""

    @pytest.mark.parametrize('mixer', ['ss2d', 'dw7'])
    @pytest.mark.parametrize('end', [dict(distractors=3), dict(cue_side='none'), dict(noise=1000.0)], ids=str)
    def test_chance(self, mixer, end):
        result = train_and_test(LongRangeRun(LongRangeTask('row', 16, **end), mixer, steps=150))
        assert all(abs(each['correct'] / each['total'] - 0.25) <= 0.04 for each in result['bins'])

    @pytest.mark.parametrize('mixer', ['ss2d', 'dw7'])
    def test_near_end_is_learned_in_as_many_steps(self, mixer):
        near = train_and_test(LongRangeRun(ROW_16, mixer, steps=150))['bins'][0]
        assert near['correct'] >= 0.6 * near['total']
