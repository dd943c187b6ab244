"""Components and power against simulated runs, of which the components are known."""

import math

import numpy as np
import pytest
from scipy import stats

from mmbackbones.analysis.compare.power import (
    Components,
    components,
    images_for,
    power,
    seeds_for,
    smallest_difference,
)
from mmbackbones.evaluation.bootstrap import draw_counts

TRUE = dict(shared=400.0, crossed=60.0, seeds=1.0)


def simulated(rng, images, runs, shared=0.0, crossed=0.0, seeds=0.0):
    """Scores by run and image of two arms: a score is their mean. The images themselves cancel in the difference."""
    hard = rng.normal(0, 30, images)
    own = rng.normal(0, math.sqrt(shared / 2), (2, images))
    scores = []
    for arm, count in enumerate(runs):
        of_runs = rng.normal(0, math.sqrt(seeds), (count, 1)) + rng.normal(0, math.sqrt(crossed), (count, images))
        scores.append(hard + own[arm] + of_runs)
    return scores


def estimated(rng, images, runs, resamples=100, **parts):
    counts = draw_counts(images, resamples, int(rng.integers(1 << 30)))
    arm, reference = ((scores @ counts.T) / images for scores in simulated(rng, images, runs, **parts))
    return components(arm, reference, images)


def test_components_are_those_of_the_simulation():
    rng = np.random.default_rng(0)
    found = [estimated(rng, 400, (3, 3), **TRUE) for _ in range(300)]
    for name, value in TRUE.items():
        assert np.mean([getattr(each, name) for each in found]) == pytest.approx(value, rel=0.15), name
    assert found[0].freedom == 4 and found[0].runs == (3, 3)


def test_components_that_are_not_there_are_small():
    rng = np.random.default_rng(1)
    found = [estimated(rng, 400, (10, 10), crossed=300.0) for _ in range(50)]
    assert np.mean([each.seeds for each in found]) < 0.2 * 300 / 400  # none is below 0, so the mean is above it
    assert np.mean([each.shared for each in found]) < 0.1 * 300
    found = [estimated(rng, 400, (4, 4), shared=300.0) for _ in range(20)]
    assert max(each.seeds for each in found) < 1e-9 and max(each.crossed for each in found) < 1e-9


def test_with_one_seed_that_of_seeds_is_unknown():
    rng = np.random.default_rng(2)
    found = [estimated(rng, 400, (1, 1), **TRUE) for _ in range(100)]
    assert found[0].seeds is None and found[0].freedom == 0
    assert np.mean([each.shared for each in found]) == pytest.approx(400 + 2 * 60, rel=0.1)
    known = estimated(rng, 400, (2, 1), **TRUE)
    assert known.seeds is not None and known.freedom == 1


@pytest.mark.parametrize('seeds', [3, 6])
def test_a_test_of_that_size_sees_the_difference_as_often_as_said(seeds):
    """A two-sided t-test with the true components' degrees of freedom, in 2,000 simulated experiments."""
    found = Components(TRUE['shared'], TRUE['crossed'], TRUE['seeds'], 4, 400, (3, 3), 0.0)
    images = 300
    difference = smallest_difference(found, images, seeds)
    said = power(found, difference, images, seeds)
    assert said == pytest.approx(0.8, abs=0.02)
    rng = np.random.default_rng(seeds)
    of_images, of_runs = found.shared / images, found.crossed / images + found.seeds
    freedom = (of_images + 2 * of_runs / seeds) ** 2 / (
        of_images**2 / (images - 1) + (2 * of_runs / seeds) ** 2 / (2 * (seeds - 1))
    )
    limit, seen = stats.t.ppf(0.975, freedom), 0
    for _ in range(2000):
        gap = rng.normal(difference, math.sqrt(of_images)) + rng.normal(0, math.sqrt(2 * of_runs / seeds))
        estimate = of_images * rng.chisquare(images - 1) / (images - 1)
        estimate += 2 * of_runs / seeds * rng.chisquare(2 * (seeds - 1)) / (2 * (seeds - 1))
        seen += abs(gap) > limit * math.sqrt(estimate)
    assert seen / 2000 == pytest.approx(said, abs=0.03)


def test_power_without_a_difference_is_the_level():
    found = Components(400.0, 300.0, 0.25, 4, 400, (3, 3), 0.0)
    assert power(found, 0.0, 500, 4) == pytest.approx(0.05) and power(found, 0.0, 500, None) == pytest.approx(0.05)


def test_numbers_of_images_and_seeds_are_the_smallest():
    found = Components(400.0, 300.0, 0.25, 4, 400, (3, 3), 0.0)
    seeds = seeds_for(found, 1.0, 5000)
    assert power(found, 1.0, 5000, seeds) >= 0.8 > power(found, 1.0, 5000, seeds - 1)
    for seeds in (None, 12):
        images = images_for(found, 1.0, seeds)
        assert power(found, 1.0, images, seeds) >= 0.8 > power(found, 1.0, images - 1, seeds)
    # only images: (1.960 + 0.842)² times the variance over the squared difference
    fixed = Components(400.0, 0.0, None, 0, 400, (1, 1), 0.0)
    assert images_for(fixed, 0.5, None) == pytest.approx((1.95996 + 0.84162) ** 2 * 400 / 0.25, rel=1e-3)
    assert 0.1 < smallest_difference(fixed, 5000, None) == pytest.approx(2.80158 * math.sqrt(400 / 5000), abs=0.01)


def test_what_no_number_of_images_or_seeds_reaches_is_none():
    seeds_alone = Components(400.0, 300.0, 0.25, 4, 400, (3, 3), 0.0)
    assert images_for(seeds_alone, 0.3, 3) is None
    images_alone = Components(1e5, 0.0, 0.01, 4, 400, (3, 3), 0.0)
    assert seeds_for(images_alone, 0.3, 2000) is None
    nothing = Components(0.0, 0.0, 0.0, 4, 400, (3, 3), 0.0)
    assert (seeds_for(nothing, 0.3, 5000), images_for(nothing, 0.3, None)) == (2, 2)


def test_few_seeds_tell_little_about_seeds():
    deviation, low, high = Components(400.0, 0.0, 0.25, 4, 400, (3, 3), 0.0).seed_deviation()
    of_chi_squared = (0.5, 0.5 * math.sqrt(4 / 11.1433), 0.5 * math.sqrt(4 / 0.48442))
    assert (deviation, low, high) == pytest.approx(of_chi_squared, rel=1e-3)
