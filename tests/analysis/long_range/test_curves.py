"""What is said of accuracies: intervals over seeds, curves, verdicts."""

import json

import pytest
import torch
import torch.nn.functional as F

from mmbackbones.analysis.long_range.curves import Curve, blind_accuracy, curves, seed_interval
from mmbackbones.analysis.long_range.records import to_record
from mmbackbones.analysis.long_range.runs import LongRangeRun
from mmbackbones.analysis.long_range.show import markdown
from mmbackbones.datasets.long_range import LongRangeTask


class TestStatistics:
    def test_seed_interval(self):
        mean, low, high = seed_interval([0.4, 0.5, 0.6])  # t(0.975, 2) = 4.3027
        half = 4.3027 * 0.1 / 3**0.5
        assert (mean, low, high) == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-5)
        assert seed_interval([0.9, 1.0]) == pytest.approx((0.95, 0.3147, 1.0), abs=1e-4)  # cut at 1

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

    def test_counting_colours_is_chance_in_routed(self):
        """Six cues of four colours: the most frequent one has 2.818 of them (by all 4096 images)."""
        settings = dict(task='routed', cue_side='random', distractors=0)
        assert blind_accuracy(settings) == pytest.approx(2.818359375 / 6)
        assert blind_accuracy(settings | dict(distractors=3)) == 0.25  # each colour six times
        assert blind_accuracy(settings | dict(cue_side='none')) == blind_accuracy(settings | dict(task='row')) == 0.25
        (seen,) = curves([record('attn', 0, 0.47, 0.47, task='routed')])
        assert seen.verdict().startswith('did not train') and seen.chance == [pytest.approx(0.46973, abs=1e-5)] * 2

    def test_counting_colours_is_what_such_an_observer_reaches(self):
        generator = torch.Generator().manual_seed(0)
        colours = torch.randint(4, (20000, 6), generator=generator)
        right = F.one_hot(colours, 4).sum(1).amax(1).double().mean().item() / 6
        assert blind_accuracy(dict(task='routed', cue_side='random', distractors=0)) == pytest.approx(right, abs=5e-3)

    def test_no_limit_without_a_positive_control(self):
        """A limit is stated only beside a mixer that learned every bin; the one made for it must have, if it ran."""

        def limit(*others):
            runs = [('dw7', 0.9, 0.25), *others]
            return curves([record(mixer, 0, near, far) for mixer, near, far in runs])[0].verdict()

        alone = 'did not train beyond 4 tokens: no mixer here is above chance in every bin'
        assert limit() == limit(('ss2d', 0.9, 0.3)) == limit(('ss2d', 0.6, 0.6)) == alone
        assert limit(('ss2d', 0.9, 0.9)) == limit(('row-max', 0.9, 0.9)) == 'above chance up to 4 tokens'
        assert limit(('ss2d', 0.9, 0.9), ('row-max', 0.9, 0.25)) == alone
        failed = curves([record('row-max', 0, 0.3, 0.3), record('ss2d', 0, 0.9, 0.9)])
        assert [each.verdict().split(':')[0] for each in failed] == ['did not train', 'above chance in every bin']

    def test_verdict_of_the_far_end(self):
        assert curve((0.25, 0.26, 0.24), ceiling=0.25).verdict().startswith('nothing to learn')
        assert curve((0.5, 0.26, 0.26), ceiling=0.5).verdict() == 'above chance up to 4 tokens'


def curve(accuracies, ceiling=1.0):
    accuracies = list(accuracies)
    return Curve('ssm', ['1-4', '5-8', '9-15'], accuracies, accuracies, accuracies, [0.25] * 3, 3, 3, ceiling)


def record(mixer, seed, near, far, shuffled=False, task='row'):
    arm = LongRangeRun(LongRangeTask(task, 16, shuffled=shuffled), mixer, seed)
    bins = [
        dict(
            first=first, last=last, correct=round(1000 * accuracy), total=1000, low=accuracy - 0.1, high=accuracy + 0.1
        )
        for (first, last), accuracy in (((1, 4), near), ((5, 15), far))
    ]
    return json.loads(json.dumps(to_record(arm, dict(bins=bins, seconds=1.0)), sort_keys=True))
