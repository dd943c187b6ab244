"""Train and test on :class:`mmbackbones.datasets.long_range.LongRangeTask`, to measure how far a token mixer sees.

Training is on all distances at once. The near distances distinguish a mixer that sees no further from a net that did
not train.
"""

import math
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbackbones.analysis.long_range.images import training_images
from mmbackbones.analysis.long_range.net import LongRangeNet
from mmbackbones.analysis.long_range.runs import TEST_SEEDS, LongRangeRun
from mmbackbones.analysis.long_range.state import StateFile
from mmbackbones.datasets.long_range import BACKGROUND, COLOURS, LongRangeTask
from mmbackbones.evaluation.bootstrap import interval, ratio_of_sums

LEARNING_RATE, WARM_UP, BACKGROUND_WEIGHT = 3e-3, 50, 0.3
LAST_LOSSES = 10  # steps whose mean loss a record states
BIN_STARTS = (1, 5, 9, 13, 17, 25, 33, 49, 65, 97)  # distances in tokens
AUTOCAST = {'bf16': torch.bfloat16, 'fp16': torch.float16}


class Training:
    """A net in training, with all that its next step depends on.

    Attributes:
        net (LongRangeNet): in training mode, on the device of the run.
        step (int): steps done.
        losses (list[float]): of the last ten steps.
    """

    def __init__(self, run: LongRangeRun):
        self.run = run
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            self.net = LongRangeNet(run.mixer, run.position).to(run.device)
        self.generator = torch.Generator().manual_seed(run.seed)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=LEARNING_RATE)
        warm_up = min(WARM_UP, run.steps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * step / run.steps)))
        )
        # Gradients of float16 underflow without a scale. Disabled, it changes nothing.
        self.scaler = torch.amp.GradScaler(run.device, enabled=run.precision == 'fp16')
        self.step, self.losses = 0, []

    def learn(self, images: Tensor, labels: Tensor) -> float:
        """One step on a batch -> its loss."""
        with autocast(self.run):
            logits = self.net(images)
        loss = long_range_loss(logits.float(), labels)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.step += 1
        value = loss.item()
        self.losses = [*self.losses[1 - LAST_LOSSES :], value]
        return value

    def state(self) -> dict:
        """Tensors and plain values, from which :meth:`restore` goes on."""
        parts = {name: getattr(self, name).state_dict() for name in self._PARTS}
        return dict(step=self.step, losses=self.losses, generator=self.generator.get_state(), **parts)

    def restore(self, state: dict) -> None:
        """Be as the training was whose state this is."""
        for name in self._PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state['generator'])
        self.step, self.losses = state['step'], state['losses']

    _PARTS = ('net', 'optimizer', 'schedule', 'scaler')


def autocast(run: LongRangeRun) -> torch.autocast:
    """The context of a run's precision: nothing in float32."""
    return torch.autocast(run.device, AUTOCAST.get(run.precision), enabled=run.precision in AUTOCAST)


def train(
    run: LongRangeRun,
    progress: Callable[[int, float], None] | None = None,
    workers: int = 0,
    saved: StateFile | None = None,
) -> Training:
    """Train one net: AdamW 3e-3, 50 steps of warm-up, cosine to zero, gradients clipped at norm 1.

    Args:
        run: what to train.
        progress: called with step and loss after every step, before a state is written.
        workers: processes that draw the images ahead.
        saved: where to keep the state. A training that finds one goes on from it, to the same result.

    Returns:
        Training: done, its net in evaluation mode.

    Raises:
        InputError: the state is damaged, of another run, or cannot be written; or workers cannot draw the images.
    """
    training = Training(run)
    if saved is not None and (state := saved.read(run.settings())):
        training.restore(state)
    for batch in training_images(run, training.generator, training.step, workers):
        loss = training.learn(batch.images, batch.labels)
        if progress is not None:
            progress(training.step, loss)
        if saved is not None and saved.due(training.step, run.steps):
            saved.write(dict(settings=run.settings(), **training.state()))
    training.net.eval()
    return training


def long_range_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of shapes plus 0.3 times that of the other tokens.

    Args:
        logits: [B, H, W, 5].
        labels: [B, H, W] int64.
    """
    loss = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), reduction='none')
    other = (labels == BACKGROUND).flatten()
    shapes, background = loss[~other], BACKGROUND_WEIGHT * loss[other].mean()
    # A short reach may leave a batch without shapes, whose mean would be NaN.
    return shapes.mean() + background if len(shapes) else background


def distance_bins(task: LongRangeTask) -> list[tuple[int, int]]:
    """First and last distance of each bin: 1-4, 5-8, 9-12, 13-16, 17-24, 25-32, 33-48, 49-64, 65-96, 97-127.

    The last one ends at the largest distance that occurs.
    """
    starts = [start for start in BIN_STARTS if start <= task.farthest]
    return list(zip(starts, [start - 1 for start in starts[1:]] + [task.farthest]))


@torch.no_grad()
def count_correct(net: nn.Module, run: LongRangeRun) -> Tensor:
    """Test on new images that no training seed produces.

    A shape counts as right if the logit of its colour is the largest of the four colours. The background does not
    count, so chance is a quarter.

    Returns:
        Tensor: [images, bins, 2] int64, number of right shapes and of all shapes.
    """
    generator = torch.Generator().manual_seed(TEST_SEEDS + run.seed)
    bins, counts = distance_bins(run.task), []
    for start in range(0, run.images, run.batch_size):
        batch = run.task.batch(run.batch_size, generator)
        with autocast(run):
            logits = net(batch.images.to(run.device)).cpu()
        labels, distances = batch.labels, batch.distances
        right = logits[..., :COLOURS].argmax(-1) == labels
        inside = torch.stack([(distances >= first) & (distances <= last) for first, last in bins], dim=1)
        both = torch.stack((inside & right[:, None], inside), dim=2)  # [B, bins, 2, H, W]
        counts.append(both.sum((-2, -1))[: run.images - start])
    return torch.cat(counts)


def train_and_test(
    run: LongRangeRun,
    progress: Callable[[int, float], None] | None = None,
    workers: int = 0,
    saved: StateFile | None = None,
) -> dict:
    """Train and test one net; the arguments are those of :func:`train`.

    Returns:
        dict: plain values: the settings, ``bins`` (per distance bin ``first``, ``last``, ``correct``, ``total`` and a
        95 % bootstrap interval over test images, in 0 .. 1), ``parameters``, ``loss`` (mean of the last ten steps)
        and ``seconds`` (since the last time that it was resumed).
    """
    start = time.perf_counter()
    training = train(run, progress, workers, saved)
    counts = count_correct(training.net, run)
    total = counts.sum(0).tolist()
    bins = [
        dict(first=first, last=last, correct=correct, total=shapes, low=round(low, 4), high=round(high, 4))
        for (first, last), (correct, shapes), (low, high) in zip(
            distance_bins(run.task), total, accuracy_intervals(counts, run.seed)
        )
    ]
    return dict(
        **run.settings(),
        bins=bins,
        parameters=sum(parameter.numel() for parameter in training.net.parameters()),
        loss=sum(training.losses) / len(training.losses),
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
