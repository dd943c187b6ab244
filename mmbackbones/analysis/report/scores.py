"""Scores of arms in a report: their mean over the seeds, the single runs, and the published figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmbackbones.analysis.compare.names import network_of
from mmbackbones.evaluation.bootstrap import interval
from mmbackbones.evaluation.predictions import FinishedRun
from mmbackbones.evaluation.records import arm_of
from mmbackbones.evaluation.scores import Values
from mmbackbones.zoo.published import match

PUBLISHED = {'box AP': 'AP_box', 'mask AP': 'AP_mask', 'mIoU': 'mIoU_ss', 'mIoU, multi-scale': 'mIoU_ms'}


@dataclass(frozen=True)
class Score:
    """An arm's score in percent.

    Attributes:
        name (str): short name of the network.
        runs (list[FinishedRun]): runs that differ only in their seed.
        metric (str): ``'box AP'``, ``'mask AP'``, ``'mIoU'`` or ``'mIoU, multi-scale'``.
        by_run (list[float]): score of each run.
        value, low, high (float): their mean and the ends of its 95 % interval over images.
        published (float | None): published score for the common recipe.
    """

    name: str
    runs: list[FinishedRun]
    metric: str
    by_run: list[float]
    value: float
    low: float
    high: float
    published: float | None

    @property
    def seeds(self) -> int:
        return len({run.record['seed'] for run in self.runs})


def name_of(run: FinishedRun) -> str:
    """Short name of a run's network and its seed."""
    return f'{network_of(run.record)}, seed {run.record["seed"]}'


def arms_of(runs: Sequence[FinishedRun]) -> list[tuple[str, list[FinishedRun]]]:
    """Runs that differ only in their seed, with a short name."""
    arms: dict[str, list[FinishedRun]] = {}
    for run in runs:
        arms.setdefault(arm_of(run.record), []).append(run)
    tests = [
        (network_of(arm[0].record), arm[0].record['task'], bool(arm[0].record.get('tta'))) for arm in arms.values()
    ]
    return [
        (f'{test[0]} ({arm[0].work_dir.name})' if tests.count(test) > 1 else test[0], arm)
        for test, arm in zip(tests, arms.values())
    ]


def scores_of(name: str, runs: list[FinishedRun], scored: dict[Path, Values]) -> list[Score]:
    """Scores of an arm, from the draws of its runs by folder."""
    record = runs[0].record
    published = match(record['config'], record['recipe'], record.get('backbone')).row
    scores = []
    for key in scored[runs[0].folder]:
        metric = f'{key[0]}, multi-scale' if record.get('tta') else key[0]
        of_table = PUBLISHED.get(metric) if record['recipe'] == 'common' else None
        theirs = published.metrics.get(of_table) if published and of_table else None
        drawn = np.array([scored[run.folder][key] for run in runs])
        mean = drawn.mean(0)
        by_run = drawn[:, 0].tolist()
        scores.append(Score(name, runs, metric, by_run, float(mean[0]), *interval(mean[1:]), theirs))
    return scores
