"""How many images and seeds show a difference: variance components of a paired difference, and power from them.

The score of a run is the method's, plus what the images, the seed, and both together add. Two arms are scored on the
same images, so their difference in S seeds each on N images has the variance ::

    shared / N + 2 * (crossed / N + seeds) / S

``shared`` is what an image does to the difference of the methods, ``crossed`` what it does to a single run beyond that,
``seeds`` what a seed does to a run. The bootstrap tells the first two apart, because it scores all runs on the same
draws. A score such as AP is no mean over images; that its variance falls as 1 / N holds to first order.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import stats

LEVEL, POWER = 0.05, 0.8  # two-sided level of the test, and the chance to see a difference that is there
MOST_SEEDS, MOST_IMAGES = 1000, 10**9  # beyond them a number is 'none'


@dataclass(frozen=True)
class Components:
    """Variance components of a difference between two arms, in squared percentage points.

    Attributes:
        shared (float): of one image, in the difference of the methods. If no arm has two seeds: everything an image
            does.
        crossed (float): of one image and one run. 0 if no arm has two seeds.
        seeds (float | None): of one run's seed; None if no arm of the pilot has two.
        freedom (int): degrees of freedom of ``seeds``.
        images (int): of the pilot.
        runs (tuple[int, int]): seeds of its two arms.
        difference (float): that the pilot shows.
    """

    shared: float
    crossed: float
    seeds: float | None
    freedom: int
    images: int
    runs: tuple[int, int]
    difference: float

    def seed_deviation(self) -> tuple[float, float, float]:
        """Standard deviation of a run's score over seeds, and its 95 % interval, in points.

        The interval takes the scores of seeds on the pilot's images as normal (chi-squared), and is that of the seeds
        and of ``crossed`` on these images together, less the estimate of the latter.
        """
        assert self.seeds is not None
        crossed = self.crossed / self.images
        low, high = (
            max(0.0, self.freedom * (self.seeds + crossed) / stats.chi2.ppf(q, self.freedom) - crossed)
            for q in (0.975, 0.025)
        )
        return math.sqrt(self.seeds), math.sqrt(low), math.sqrt(high)


def components(arm: np.ndarray, reference: np.ndarray, images: int) -> Components:
    """Estimate the components from a pilot.

    Args:
        arm (float [runs, 1 + R]): scores of the runs of an arm, one per seed, in the data and in each resample.
        reference (float [runs, 1 + R]): the same of the reference, on the same resamples.
        images: that were resampled.
    """
    arms = (arm, reference)
    gaps = arm.mean(0) - reference.mean(0)
    of_images = float(np.nanvar(gaps[1:], ddof=1)) * images
    freedom = sum(len(runs) - 1 for runs in arms)
    common = dict(images=images, runs=(len(arm), len(reference)), difference=float(gaps[0]), freedom=freedom)
    if not freedom:
        return Components(of_images, 0.0, None, **common)
    scatter = sum(((runs[:, 0] - runs[:, 0].mean()) ** 2).sum() for runs in arms) / freedom
    # What resampling moves a run apart from the others of its arm; the point scores would add the seeds.
    moved = [runs[:, 1:] - runs[:, :1] for runs in arms]
    crossed = sum(float(np.nanmean(((each - each.mean(0)) ** 2).sum(0))) for each in moved) / freedom * images
    shared = max(0.0, of_images - crossed * sum(1 / len(runs) for runs in arms))
    return Components(shared, crossed, max(0.0, float(scatter) - crossed / images), **common)


def power(found: Components, difference: float, images: int, seeds: int | None) -> float:
    """Chance that a two-sided test at 5 % sees a difference between the methods: a t-test.

    Args:
        found: components.
        difference: between the methods, in points.
        images: of the test.
        seeds: of each arm, 2 and more. None: fixed checkpoints with as many runs as the pilot's, of which only the
            images are drawn anew.
    """
    of_images, of_runs, runs = found.shared / images, 0.0, found.runs
    if seeds is None:
        of_images += found.crossed / images * sum(1 / count for count in runs)
        freedom = images - 1.0
    else:
        assert found.seeds is not None and seeds >= 2
        of_runs = 2 * (found.crossed / images + found.seeds) / seeds
        # Satterthwaite 1946, https://doi.org/10.2307/3002019
        parts = of_images**2 / (images - 1) + of_runs**2 / (2 * (seeds - 1))
        freedom = (of_images + of_runs) ** 2 / parts if parts else images - 1.0
    deviation = math.sqrt(of_images + of_runs)
    if not deviation:
        return 1.0
    limit = float(stats.t.ppf(1 - LEVEL / 2, freedom))
    centre = difference / deviation
    if centre > 40:  # beyond what the noncentral distribution is computed for
        return 1.0 if centre > 2 * limit else float(stats.norm.sf(limit - centre))
    return float(stats.nct.sf(limit, freedom, centre) + stats.nct.cdf(-limit, freedom, centre))


def images_for(found: Components, difference: float, seeds: int | None, wanted: float = POWER) -> int | None:
    """Fewest images at which the power reaches ``wanted``; None if the seeds alone forbid it."""
    return _fewest(partial(_power_of_images, found, difference, seeds), 2, MOST_IMAGES, wanted)


def seeds_for(found: Components, difference: float, images: int, wanted: float = POWER) -> int | None:
    """Fewest seeds of each arm at which the power reaches ``wanted``; None if the images alone forbid it."""
    return _fewest(partial(power, found, difference, images), 2, MOST_SEEDS, wanted)


def smallest_difference(found: Components, images: int, seeds: int | None, wanted: float = POWER) -> float:
    """Smallest difference, in points and to 0.01, that such a run sees with the power ``wanted``."""
    hundredths = _fewest(lambda value: power(found, value / 100, images, seeds), 1, 10_000, wanted)
    return math.inf if hundredths is None else hundredths / 100


def _power_of_images(found: Components, difference: float, seeds: int | None, images: int) -> float:
    return power(found, difference, images, seeds)


def _fewest(power_at, least: int, most: int, wanted: float) -> int | None:
    """Smallest whole number at which a rising function reaches ``wanted``, by doubling and halving."""
    if power_at(most) < wanted:
        return None
    high = least
    while power_at(high) < wanted:
        least, high = high + 1, min(2 * high, most)
    while least < high:
        middle = (least + high) // 2
        least, high = (least, middle) if power_at(middle) >= wanted else (middle + 1, high)
    return high
