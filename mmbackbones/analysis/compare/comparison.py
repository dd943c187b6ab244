"""What a comparison finds: arms, differences and conclusions."""

from dataclasses import dataclass

from mmbackbones.evaluation.predictions import FinishedRun


@dataclass
class Arm:
    """Runs that differ only in their seed."""

    name: str
    runs: list[FinishedRun]

    @property
    def seeds(self) -> int:
        return len({run.record['seed'] for run in self.runs})


@dataclass
class Difference:
    """An arm's score minus that of the reference, in percentage points.

    Attributes:
        metric (str): ``'box AP'``, ``'mask AP'`` or ``'mIoU'``.
        split, group (str): ``'all'``, or a part of the objects, classes or images.
        arm, reference (str): names of the arms.
        score, reference_score (float): in percent.
        difference (float): ``score`` minus ``reference_score``.
        low, high (float): ends of the 95 % interval.
        p (float): two-sided; ``p_holm`` is corrected for the comparisons of its metric and split.
        images (int): number of resampled images.
        about (str): ``'methods'`` or ``'checkpoints'``.
        seeds (int): number of seeds, of the arm with fewer.
        by_run, reference_by_run (list[float]): scores of the single runs.
        arm_seeds, reference_seeds (int): number of seeds of each arm.
    """

    metric: str
    split: str
    group: str
    arm: str
    reference: str
    score: float
    reference_score: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    images: int
    about: str
    seeds: int
    by_run: list[float]
    reference_by_run: list[float]
    arm_seeds: int
    reference_seeds: int


@dataclass
class Comparison:
    """Results of a comparison.

    Attributes:
        arms (list[Arm]): the reference first.
        differences (list[Difference]): differences of the other arms from it.
        sentences (list[str]): conclusions.
        notes (list[str]): other differences, such as the device, and parts that could not be scored.
        resamples, seed (int): number of resamples and seed of the bootstrap.
    """

    arms: list[Arm]
    differences: list[Difference]
    sentences: list[str]
    notes: list[str]
    resamples: int
    seed: int
