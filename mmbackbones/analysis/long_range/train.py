"""Train and test on :class:`mmbackbones.datasets.long_range.LongRangeTask`, to measure how far a token mixer sees.

Training is on all distances at once. The near distances distinguish a mixer that sees no further from a net that did
not train.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbackbones.analysis.long_range.choices import MIXERS, POSITIONS, STEPS
from mmbackbones.analysis.long_range.net import LongRangeNet, require_known
from mmbackbones.datasets.long_range import BACKGROUND, COLOURS, LongRangeTask
from mmbackbones.errors import InputError
from mmbackbones.evaluation.bootstrap import interval, ratio_of_sums

TOKENS_PER_STEP = 4096
LEARNING_RATE, WARM_UP, BACKGROUND_WEIGHT = 3e-3, 50, 0.3
TEST_SEEDS = 2**31  # seeds from here on draw test images; torch's generator keeps the lower 32 bits of a seed
BIN_STARTS = (1, 5, 9, 13, 17, 25, 33, 49)  # distances in tokens


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

    Raises:
        InputError: unknown mixer or position, no steps or images, a seed outside 0 .. 2^31 - 1.
    """

    task: LongRangeTask
    mixer: str
    seed: int = 0
    steps: int = 300
    position: str = 'none'
    images: int = 256

    def __post_init__(self):
        require_known('mixer', self.mixer, MIXERS)
        require_known('position', self.position, POSITIONS)
        if self.steps < 1 or self.images < 1:
            raise InputError(f'long-range task: {self.steps} steps and {self.images} test images, expected 1 or more')
        if not 0 <= self.seed < TEST_SEEDS:
            raise InputError(f'long-range task: seed {self.seed}, expected 0 to {TEST_SEEDS - 1}')

    @property
    def batch_size(self) -> int:
        return max(2, TOKENS_PER_STEP // self.task.tokens**2)

    def settings(self) -> dict:
        """All settings that affect the result, as plain values."""
        return {**asdict(self.task), **{key: value for key, value in asdict(self).items() if key != 'task'}}


def train(run: LongRangeRun, progress: Callable[[int, float], None] | None = None) -> LongRangeNet:
    """Train one net: AdamW 3e-3, 50 steps of warm-up, cosine to zero, gradients clipped at norm 1.

    Args:
        run: what to train.
        progress: called with step and loss after every step.

    Returns:
        LongRangeNet: in evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        net = LongRangeNet(run.mixer, run.position)
    generator = torch.Generator().manual_seed(run.seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE)
    warm_up = min(WARM_UP, run.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * step / run.steps)))
    )
    for step in range(run.steps):
        batch = run.task.batch(run.batch_size, generator)
        loss = long_range_loss(net(batch.images), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, loss.item())
    return net.eval()


def long_range_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of shapes plus 0.3 times that of the other tokens.

    Args:
        logits: [B, n, n, 5].
        labels: [B, n, n] int64.
    """
    loss = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), reduction='none')
    other = (labels == BACKGROUND).flatten()
    return loss[~other].mean() + BACKGROUND_WEIGHT * loss[other].mean()


def distance_bins(tokens: int) -> list[tuple[int, int]]:
    """First and last distance of each bin on n x n tokens: 1-4, 5-8, 9-12, 13-16, 17-24, 25-32, 33-48, 49-63."""
    starts = [start for start in BIN_STARTS if start < tokens]
    return list(zip(starts, [start - 1 for start in starts[1:]] + [tokens - 1]))


@torch.no_grad()
def count_correct(net: nn.Module, run: LongRangeRun) -> Tensor:
    """Test on new images that no training seed produces.

    A shape counts as right if the logit of its colour is the largest of the four colours. The background does not
    count, so chance is a quarter.

    Returns:
        Tensor: [images, bins, 2] int64, number of right shapes and of all shapes.
    """
    generator = torch.Generator().manual_seed(TEST_SEEDS + run.seed)
    bins, counts = distance_bins(run.task.tokens), []
    for start in range(0, run.images, run.batch_size):
        images, labels, distances = run.task.batch(run.batch_size, generator)
        right = net(images)[..., :COLOURS].argmax(-1) == labels
        inside = torch.stack([(distances >= first) & (distances <= last) for first, last in bins], dim=1)
        both = torch.stack((inside & right[:, None], inside), dim=2)  # [B, bins, 2, n, n]
        counts.append(both.sum((-2, -1))[: run.images - start])
    return torch.cat(counts)


def train_and_test(run: LongRangeRun, progress: Callable[[int, float], None] | None = None) -> dict:
    """Train and test one net.

    Returns:
        dict: plain values: the settings, ``bins`` (per distance bin ``first``, ``last``, ``correct``, ``total`` and a
        95 % bootstrap interval over test images, in 0 .. 1), ``parameters``, ``loss`` (mean of the last ten steps)
        and ``seconds``.
    """
    losses, start = [], time.perf_counter()

    def note(step: int, loss: float) -> None:
        losses.append(loss)
        if progress is not None:
            progress(step, loss)

    net = train(run, note)
    counts = count_correct(net, run)
    total = counts.sum(0).tolist()
    bins = [
        dict(first=first, last=last, correct=correct, total=shapes, low=round(low, 4), high=round(high, 4))
        for (first, last), (correct, shapes), (low, high) in zip(
            distance_bins(run.task.tokens), total, accuracy_intervals(counts, run.seed)
        )
    ]
    return dict(
        **run.settings(),
        bins=bins,
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        loss=sum(losses[-10:]) / len(losses[-10:]),
        seconds=round(time.perf_counter() - start, 1),
    )


def accuracy_intervals(counts: Tensor, seed: int, resamples: int = 1000) -> list[tuple[float, float]]:
    """95 % intervals of the accuracy per bin; whole images are drawn, because the shapes of one image share cues.

    Args:
        counts: [images, bins, 2] as from :func:`count_correct`.
        seed: seed of torch's generator for the draws.
        resamples: number of resamples.

    Returns:
        list[tuple[float, float]]: lower and upper end per bin, in 0 .. 1; 0 for a bin without shapes.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(counts), (resamples, len(counts)), generator=generator)
    drawn = torch.zeros(resamples, len(counts)).scatter_add_(1, chosen, torch.ones(chosen.shape))
    correct, shapes = counts.numpy().transpose(2, 0, 1)
    accuracy = ratio_of_sums(correct, shapes, drawn.numpy())
    return [interval(column) for column in np.nan_to_num(accuracy).T]


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
