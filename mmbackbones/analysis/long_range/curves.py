"""Accuracy against distance with intervals, and a verdict on each mixer, from records."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, product

from scipy import stats

from mmbackbones.analysis.long_range.choices import MAXIMA
from mmbackbones.analysis.long_range.records import bin_name
from mmbackbones.datasets.long_range import COLOURS, CUES

NOMINAL_CHANCE = 1 / COLOURS
# Shares of the way from chance to the best possible accuracy.
ABOVE_CHANCE, LEARNED = 0.25, 0.75
EVERY_BIN = 'above chance in every bin'


@dataclass(frozen=True)
class Curve:
    """Accuracy of one mixer against distance, all values in 0 .. 1.

    Attributes:
        mixer (str): name of the mixer.
        bins (list[str]): names of the distance bins.
        mean, low, high (list[float]): accuracy and interval per bin. With two or more seeds: the mean and its 95 % t
            interval over seeds. With one seed: its accuracy and the 95 % bootstrap interval over test images.
        chance (list[float]): mean accuracy of the same mixer trained with shuffled cues; that of :func:`blind_accuracy`
            if this was not run.
        seeds (int): number of seeds.
        chance_seeds (int): number of shuffled runs; 0: chance was not measured.
        ceiling (float): the best possible accuracy.
        controlled (bool): some mixer of the same table is above chance in every bin, so that data and training are
            enough to learn them all. Without that, no limit of a view is stated.
    """

    mixer: str
    bins: list[str]
    mean: list[float]
    low: list[float]
    high: list[float]
    chance: list[float]
    seeds: int
    chance_seeds: int
    ceiling: float
    controlled: bool = True

    def gains(self) -> list[float]:
        """Share of the way from chance to the ceiling, per bin."""
        return [
            (mean - chance) / (self.ceiling - chance) if self.ceiling > chance + 1e-9 else 0.0
            for mean, chance in zip(self.mean, self.chance)
        ]

    def verdict(self) -> str:
        """Verdict on the mixer. It states a limit of its view only if the mixer learned the near bin."""
        if self.ceiling <= NOMINAL_CHANCE:
            return 'nothing to learn: no mixer can beat chance on this data'
        gains = self.gains()
        above = [gain >= ABOVE_CHANCE for gain in gains]
        if not any(above):
            return (
                'did not train: less than a quarter of the way above chance in the near bin too '
                f'({100 * self.mean[0]:.1f} % at {self.bins[0]})'
            )
        if not above[0]:
            return 'uneven: above chance only at ' + ', '.join(name for name, is_ in zip(self.bins, above) if is_)
        if all(above):
            extent = EVERY_BIN
        else:
            reached = self.bins[above.index(False) - 1].split('-')[1]
            if not self.controlled:
                return f'did not train beyond {reached} tokens: no mixer here is above chance in every bin'
            extent = f'above chance up to {reached} tokens'
        if gains[0] < LEARNED:
            return f'{extent}; trained in part ({100 * self.mean[0]:.1f} % at {self.bins[0]}), so it may see further'
        return extent


def curves(records: Sequence[dict]) -> list[Curve]:
    """One curve per mixer, in the order of the records. The records may differ only in mixer, seed and shuffling.

    The positive control is a mixer that learned every bin. Where the one that is made for this was run, it must have.
    """
    found = []
    for mixer in dict.fromkeys(record['settings']['mixer'] for record in records):
        mine = [record for record in records if record['settings']['mixer'] == mixer]
        runs = [record for record in mine if not record['settings']['shuffled']]
        shuffled = [record for record in mine if record['settings']['shuffled']]
        if not runs:
            continue
        bins = [bin_name(each) for each in runs[0]['result']['bins']]
        intervals = [seed_interval([run['metrics'][name] for run in runs]) for name in bins]
        if len(runs) == 1:
            intervals = [
                (each['correct'] / max(1, each['total']), each['low'], each['high'])
                for each in runs[0]['result']['bins']
            ]
        mean, low, high = map(list, zip(*intervals))
        settings = runs[0]['settings']
        chance = [
            statistics.fmean(run['metrics'][name] for run in shuffled) if shuffled else blind_accuracy(settings)
            for name in bins
        ]
        ceiling = NOMINAL_CHANCE if settings['cue_side'] == 'none' else 1 / (1 + settings['distractors'])
        found.append(Curve(mixer, bins, mean, low, high, chance, len(runs), len(shuffled), ceiling))
    made = [curve for curve in found if curve.mixer in MAXIMA]
    controlled = any(curve.verdict() == EVERY_BIN for curve in made or found)
    return [replace(curve, controlled=controlled) for curve in found]


def blind_accuracy(settings: dict) -> float:
    """Chance where it was not measured, 0 .. 1.

    In ``routed`` it is that of an observer that counts the colours of all cues, matches no keys, and answers the most
    frequent colour: the mean over all equally likely colours of the cues. In the other tasks it is a quarter, which
    also holds for cues that are not painted.

    Args:
        settings: ``task``, ``cue_side`` and ``distractors`` of a run.
    """
    if settings['task'] != 'routed' or settings['cue_side'] == 'none':
        return NOMINAL_CHANCE
    return _most_frequent(1 + settings['distractors'])


@cache
def _most_frequent(alike: int) -> float:
    """Mean share of the most frequent colour, if each cue is painted in ``alike`` different colours."""
    images = list(product(combinations(range(COLOURS), alike), repeat=CUES))
    most = [max(sum(colour in cue for cue in cues) for colour in range(COLOURS)) for cues in images]
    return statistics.fmean(most) / (CUES * alike)


def seed_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % t interval of accuracies over seeds, cut to 0 .. 1. A single value is its own interval."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return mean, mean, mean
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def interval_kind(found: Sequence[Curve]) -> str:
    """Description of the intervals of these curves."""
    kinds = {
        '95 % t intervals over seeds'
        if curve.seeds > 1
        else '95 % bootstrap intervals over the test images of the one seed'
        for curve in found
    }
    return ' and '.join(sorted(kinds))
