"""What a pilot says of the run that can answer: tools/analysis/compare.py --power.

A pilot is two arms, each of one or more seeds. :mod:`mmbackbones.analysis.compare.power` has the formulas,
docs/compare.md the limits.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from mmbackbones.analysis.compare.comparison import Arm
from mmbackbones.analysis.compare.paired import facts_of_arms, group_arms, score_runs
from mmbackbones.analysis.compare.power import (
    LEVEL,
    POWER,
    Components,
    components,
    images_for,
    power,
    seeds_for,
    smallest_difference,
)
from mmbackbones.analysis.tables import rich_table
from mmbackbones.errors import InputError
from mmbackbones.evaluation.bootstrap import SEEDS_FOR_METHODS
from mmbackbones.evaluation.environment import environment
from mmbackbones.evaluation.predictions import FinishedRun
from mmbackbones.evaluation.records import arm_of, plain_floats
from mmbackbones.evaluation.scores import Values

DIFFERENCES = (0.3, 0.5, 1.0)  # in points
COCO, ADE20K = ('COCO val2017', 5000), ('ADE20K val', 2000)
TESTS = {'box AP': COCO, 'mask AP': COCO, 'mIoU': ADE20K, 'mDice': ADE20K}  # what a score is reported on
SEEDS = (SEEDS_FOR_METHODS, 5, 10)  # of which the table shows the power


@dataclass
class Need:
    """What it takes to see a difference in a score. None: no number is enough, or the pilot does not tell.

    Attributes:
        difference (float): in points.
        images_of_checkpoints (int | None): images that tell two fixed checkpoints apart.
        seeds (int | None): seeds of each arm on the data set's images.
        images_by_seeds (dict[int, int | None]): images, by the number of seeds of each arm.
        power_by_seeds (dict[int, float]): power on the data set's images, by the number of seeds of each arm.
        power_of_checkpoints (float): power on the data set's images for two fixed checkpoints.
    """

    difference: float
    images_of_checkpoints: int | None
    seeds: int | None
    images_by_seeds: dict[int, int | None]
    power_by_seeds: dict[int, float]
    power_of_checkpoints: float


@dataclass
class Plan:
    """Needs of one score and one pair of arms, on the images of one data set."""

    metric: str
    arm: str
    reference: str
    data: str
    images: int
    components: Components
    needs: list[Need]


@dataclass
class Pilot:
    """What a pilot says.

    Attributes:
        arms (list[Arm]): the reference first.
        plans (list[Plan]): by score and arm.
        sentences (list[str]): what the numbers may and may not mean.
        resamples, seed (int): of the bootstrap.
    """

    arms: list[Arm]
    plans: list[Plan]
    sentences: list[str]
    resamples: int
    seed: int


def read_pilot(
    paths: Sequence[str | Path],
    differences: Sequence[float] = DIFFERENCES,
    resamples: int = 1000,
    seed: int = 0,
    allow: Sequence[str] = (),
    metrics: Sequence[str] | None = None,
    annotations: Path | None = None,
    images: int | None = None,
) -> Pilot:
    """Score a pilot's runs and say what a run takes.

    Args:
        paths: work dirs of trainings or folders of tests, of two arms and more.
        differences: to be seen, in points.
        resamples, seed, allow, metrics, annotations: see :func:`mmbackbones.analysis.compare.paired.compare_runs`.
        images: of the planned test; by default those of the data set that the score is reported on.

    Raises:
        InputError: a difference that is not above 0, fewer than two images, runs of one arm alone, or whatever
            ``compare_runs`` refuses.
    """
    require_differences(differences)
    if images is not None and images < 2:
        raise InputError(f'--images {images}: expected 2 and more')
    scored, tested = score_runs(paths, resamples, seed, allow, (), metrics, annotations)
    return pilot_of(scored, tested, differences, resamples, seed, images)


def require_differences(differences: Sequence[float], option: str = '--differences') -> None:
    """Refuse a difference that is none.

    Raises:
        InputError: it is not a number above 0 and up to 100.
    """
    for value in differences:
        if not 0 < value <= 100:
            raise InputError(f'{option} {value:g}: expected points above 0, and 100 at most')


def pilot_of(
    scored: Sequence[tuple[FinishedRun, Values]],
    tested: int,
    differences: Sequence[float] = DIFFERENCES,
    resamples: int = 1000,
    seed: int = 0,
    images: int | None = None,
) -> Pilot:
    """The same from scores on the same draws; ``tested`` is the number of images that were resampled."""
    if len({arm_of(run.record) for run, _ in scored}) < 2:
        raise InputError(f'{scored[0][0].folder} and the other runs are of one arm; a pilot needs two arms')
    arms = group_arms([run for run, _ in scored])
    values = {run.folder: each for run, each in scored}
    plans = []
    for key in values[arms[0].runs[0].folder]:
        metric, split, _ = key
        if split != 'all':
            continue
        if metric not in TESTS:
            raise InputError(f'{metric}: --power knows {", ".join(TESTS)}')
        data, count = ('the planned test', images) if images else TESTS[metric]
        for arm in arms[1:]:
            drawn = [_by_seed(one, values, key) for one in (arm, arms[0])]
            found = components(*drawn, tested)
            if not np.isfinite(found.difference):
                raise InputError(f'{metric}: nothing to score in the pilot')
            needs = [need(found, value, count) for value in differences]
            plans.append(Plan(metric, arm.name, arms[0].name, data, count, found, needs))
    return Pilot(arms, plans, _sentences(plans, arms, tested), resamples, seed)


def _by_seed(arm: Arm, values: dict[Path, Values], key: tuple[str, str, str]) -> np.ndarray:
    """float [seeds, 1 + R]: the first run of each seed, because another of the same says nothing about seeds."""
    first = {run.record['seed']: run for run in reversed(arm.runs)}
    return np.array([values[run.folder][key] for run in first.values()])


def need(found: Components, difference: float, images: int) -> Need:
    """What it takes to see a difference on a test of so many images."""
    known = found.seeds is not None
    return Need(
        difference,
        images_for(found, difference, None),
        seeds_for(found, difference, images) if known else None,
        {seeds: images_for(found, difference, seeds) for seeds in SEEDS} if known else {},
        {seeds: power(found, difference, images, seeds) for seeds in SEEDS} if known else {},
        power(found, difference, images, None),
    )


def _sentences(plans: Sequence[Plan], arms: Sequence[Arm], tested: int) -> list[str]:
    record = arms[0].runs[0].record
    said = []
    for plan in plans:
        found, who = plan.components, f'{plan.metric}, {plan.arm} - {plan.reference}'
        if found.seeds is None:
            said.append(
                f'{who}: no arm of the pilot has two seeds, so what seeds do is unknown, and nothing is said about '
                'methods. The numbers of images tell two fixed checkpoints apart, no more. A second seed of each arm '
                'is the least that tells; three are better.'
            )
            continue
        deviation, low, high = found.seed_deviation()
        worst = dataclasses.replace(found, seeds=high**2)
        seen, at_worst = (smallest_difference(each, plan.images, SEEDS_FOR_METHODS) for each in (found, worst))
        said.append(
            f'{who}: a run varies over seeds by {deviation:.2f} points (standard deviation; 95 % interval {low:.2f} to '
            f'{high:.2f} from {" and ".join(map(str, found.runs))} seeds); the images of {plan.data} alone leave '
            f'{math.sqrt(found.shared / plan.images):.2f} points in the difference. With {SEEDS_FOR_METHODS} seeds per '
            f'arm on {plan.images:,} images, {seen:.2f} points are seen with a power of {POWER:.0%}; {at_worst:.2f} at '
            'the upper end of the interval.'
        )
    said.append(
        f'Power {POWER:.0%} means a two-sided test at {LEVEL:.0%}. The pilot has {tested:,} images and the recipe '
        f'{record["recipe"]!r}. Its variances are those of its data, schedule and networks: for another data set or '
        'schedule the numbers are only an indication.'
    )
    return said


def tables(pilot: Pilot) -> list[Table]:
    """One table for each score and arm."""
    shown = []
    for plan in pilot.plans:
        known = plan.components.seeds is not None
        columns = ['difference', 'images, these checkpoints']
        columns += [f'seeds on {plan.images:,} images', *(f'images at {seeds} seeds' for seeds in SEEDS)] * known
        columns += [f'power at {seeds} seeds' for seeds in SEEDS] * known
        columns += [] if known else [f'power on {plan.images:,} images', 'seeds']
        rows = []
        for each in plan.needs:
            row = [f'{each.difference:g}', _count(each.images_of_checkpoints)]
            if known:
                row += [_count(each.seeds), *map(_count, each.images_by_seeds.values())]
                row += [f'{value:.0%}' for value in each.power_by_seeds.values()]
            else:
                row += [f'{each.power_of_checkpoints:.0%}', 'unknown']
            rows.append(row)
        title = f'{plan.metric}, {plan.arm} - {plan.reference}: for a power of {POWER:.0%}, {plan.data}'
        shown.append(rich_table(columns, rows, title=title))
    return shown


def _count(value: int | None) -> str:
    return 'no number' if value is None else f'{value:,}'


def to_record(pilot: Pilot) -> dict:
    """The record of a pilot, see :mod:`mmbackbones.evaluation.records`."""
    return plain_floats(
        dict(
            kind='power',
            seed=pilot.seed,
            resamples=pilot.resamples,
            level=LEVEL,
            power=POWER,
            plans=[dataclasses.asdict(plan) for plan in pilot.plans],
            metrics={
                f'{plan.metric}: {plan.arm} - {plan.reference}': plan.components.difference for plan in pilot.plans
            },
            sentences=pilot.sentences,
            **facts_of_arms(pilot.arms),
            **environment(),
        )
    )
