"""Runs on the long-range task: what is trained on which data, and the curriculum of a training."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from mmbackbones.analysis.long_range.choices import (
    CURRICULA,
    DEVICES,
    DRAWS,
    MIXERS,
    POSITIONS,
    PRECISIONS,
    STEPS,
)
from mmbackbones.analysis.long_range.net import require_known
from mmbackbones.datasets.long_range import SIDES, LongRangeTask
from mmbackbones.errors import InputError

TOKENS_PER_STEP, FEWEST_IMAGES = 4096, 2
TEST_SEEDS = 2**31  # seeds from here on draw test images; torch's generator keeps the lower 32 bits of a seed
MOST_STEPS = 100_000  # of a training that draws every step by a seed of its own
FIRST_REACH, STAGES = 4, 5  # tokens, and stages of a curriculum


@dataclass(frozen=True)
class LongRangeRun:
    """One training: task, mixer, seed and settings.

    Attributes:
        task (LongRangeTask): the data.
        mixer (str): one of ``MIXERS``.
        seed (int): seed of weights and data. Runs with the same seed see the same images in the same order.
        steps (int): training steps.
        position (str): position code of the net.
        images (int): number of new test images.
        curriculum (str): ``'none'``, or what makes the training easier in its first ``curriculum_share``, see
            :meth:`stage`. Tests are on ``task`` in every case.
        curriculum_share (float | None): share of the steps, above 0 and below 1. None: a half; none of ``'none'``.
        batch (int | None): training images per step. None: as many as have 4096 tokens, two or more.
        draw (str): ``'in-turn'``, all images from one generator; ``'per-step'``, each step's by a seed of its own, so
            that any number of processes draws the same; ``'on-device'``, the same on the device that trains.
        precision (str): ``'fp32'``, or ``'bf16'`` or ``'fp16'`` for autocast; weights and optimizer are float32.
        device (str): ``'cpu'`` or ``'cuda'``.

    Raises:
        InputError: one of these is unknown or out of its range, or they do not fit each other.
    """

    task: LongRangeTask
    mixer: str
    seed: int = 0
    steps: int = 300
    position: str = 'none'
    images: int = 256
    curriculum: str = 'none'
    curriculum_share: float | None = None
    batch: int | None = None
    draw: str = 'in-turn'
    precision: str = 'fp32'
    device: str = 'cpu'

    def __post_init__(self):
        for what, name, known in (
            ('mixer', self.mixer, MIXERS),
            ('position', self.position, POSITIONS),
            ('curriculum', self.curriculum, CURRICULA),
            ('draw', self.draw, DRAWS),
            ('precision', self.precision, PRECISIONS),
            ('device', self.device, DEVICES),
        ):
            require_known(what, name, known)
        if self.steps < 1 or self.images < 1:
            raise InputError(f'long-range task: {self.steps} steps and {self.images} test images, expected 1 or more')
        if not 0 <= self.seed < TEST_SEEDS:
            raise InputError(f'long-range task: seed {self.seed}, expected 0 to {TEST_SEEDS - 1}')
        if self.curriculum == 'none':
            if self.curriculum_share is not None:
                raise InputError(f'long-range task: a share of {self.curriculum_share} for no curriculum')
        elif self.curriculum_share is None:
            object.__setattr__(self, 'curriculum_share', 0.5)
        elif not 0 < self.curriculum_share < 1:
            raise InputError(
                f'long-range task: a curriculum of {self.curriculum_share} of the steps, expected above 0 and below 1'
            )
        if self.curriculum == 'copies' and self.task.most_copies == 1:
            raise InputError('long-range task: curriculum copies: row and distractors allow no copies of a cue')
        if self.batch is not None and self.batch < FEWEST_IMAGES:
            raise InputError(f'long-range task: a batch of {self.batch} images, expected {FEWEST_IMAGES} or more')
        if self.device == 'cpu' and self.precision == 'fp16':
            raise InputError('long-range task: precision fp16 on a CPU, expected fp32 or bf16')
        if self.draw != 'in-turn':
            if self.steps > MOST_STEPS:
                raise InputError(f'long-range task: {self.steps} steps drawn {self.draw}, expected up to {MOST_STEPS}')
            if self.seed >= TEST_SEEDS // MOST_STEPS:
                most = TEST_SEEDS // MOST_STEPS - 1
                raise InputError(f'long-range task: seed {self.seed} drawn {self.draw}, expected 0 to {most}')

    @property
    def batch_size(self) -> int:
        """Images per step of the test, and of the training on its last stage unless ``batch`` says otherwise."""
        return max(FEWEST_IMAGES, TOKENS_PER_STEP // math.prod(self.task.grid))

    def stage(self, step: int) -> tuple[LongRangeTask, int]:
        """The data of a training step (the first is 0), and how many images it takes.

        The curriculum makes five equal stages of its share of the steps. ``'grid'``: the grid grows from 16 tokens on
        its shorter side to its size in equal factors, with as many tokens per step in all stages. ``'distance'``:
        shapes are at most 4 tokens from their cue, then farther, in equal factors up to all. ``'copies'``: cues
        fill half of the places of cues, by equal copies, then less, in equal factors.
        """
        size = self.batch or self.batch_size
        share = 1.0 if self.curriculum_share is None else step / (self.curriculum_share * self.steps)
        if share >= 1:
            return self.task, size
        left = 1 - math.floor(share * STAGES) / STAGES  # 1, 0.8, .. 0.2
        if self.curriculum == 'grid':
            height, width = self.task.grid
            shrunk = (SIDES[0] / min(height, width)) ** left
            small = tuple(max(SIDES[0], round(side * shrunk)) for side in (height, width))
            task = replace(self.task, tokens=small, copies=min(self.task.copies, self._copies_at(small)))
            return task, max(FEWEST_IMAGES, size * height * width // math.prod(small))
        if self.curriculum == 'distance':
            farthest = self.task.farthest
            return replace(self.task, reach=round(farthest * (FIRST_REACH / farthest) ** left)), size
        fewest, most = self.task.copies, self.task.most_copies
        return replace(self.task, copies=round(fewest * (most / fewest) ** left)), size

    def _copies_at(self, grid: tuple[int, int]) -> int:
        return replace(self.task, tokens=grid, copies=1).most_copies

    def settings(self) -> dict:
        """All settings that affect the result, as plain values.

        The settings that later releases added are left out at their defaults, so that earlier records are found.
        """
        values = {**asdict(self.task), **{key: value for key, value in asdict(self).items() if key != 'task'}}
        if not isinstance(values['tokens'], int):
            values['tokens'] = list(values['tokens'])
        return {key: value for key, value in values.items() if key not in DEFAULTS or value != DEFAULTS[key]}


# Settings of later releases, with the values that the first release had without naming them.
DEFAULTS = dict(
    copies=1,
    reach=None,
    curriculum='none',
    curriculum_share=None,
    batch=None,
    draw='in-turn',
    precision='fp32',
    device='cpu',
)


def runs_of(
    task: LongRangeTask, mixers: Sequence[str], seeds: Sequence[int], chance_seeds: Sequence[int] = (), **options
) -> list[LongRangeRun]:
    """Every mixer with every seed, then every mixer with shuffled cues and every seed of ``chance_seeds``.

    Seeds are the outer loop, so that a command that is stopped early leaves complete seeds. ``options`` are arguments
    of :class:`LongRangeRun`.
    """
    options.setdefault('steps', STEPS[task.task])
    shuffled = replace(task, shuffled=True)
    return [
        LongRangeRun(data, mixer, seed, **options)
        for data, those in ((task, seeds), (shuffled, chance_seeds))
        for seed in those
        for mixer in mixers
    ]
