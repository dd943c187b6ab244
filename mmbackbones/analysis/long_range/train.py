"""How far does a token mixer see? An isotropic net trained on :class:`mmbackbones.datasets.long_range.LongRangeTask`.

Nothing in the net but the mixer moves information between tokens: non-overlapping 4x4 patches, norms per token, one
linear layer per token as head. Hierarchies, pyramid pooling, batch and group norms would all leak the whole image.
Training is on all distances at once; the near bins then tell an arm that sees no further from one that did not train.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbackbones.datasets.long_range import BACKGROUND, COLOURS, PATCH, LongRangeTask
from mmbackbones.errors import InputError
from mmbackbones.layers.token_mixers import MIXING, POINTWISE, build_branch

WIDTH, INNER, DEPTH = 48, 64, 4
KERNELS = {'dw3': 3, 'dw7': 7}
MIXERS = ('identity', *KERNELS, *MIXING, *POINTWISE)
POSITIONS = ('none', 'sincos')
TOKENS_PER_STEP = 4096
STEPS = {'row': 300, 'routed': 700, 'single': 300}
LEARNING_RATE, WARM_UP, BACKGROUND_WEIGHT = 3e-3, 50, 0.3
TEST_SEEDS = 2**31  # seeds from here on draw test images; torch's generator keeps the lower 32 bits of a seed
BIN_STARTS = (1, 5, 9, 13, 17, 25, 33, 49)  # distances in tokens


class DepthwiseConv(nn.Conv2d):
    """Depthwise convolution of a channels-last map, zeros beyond the border."""

    def __init__(self, dim: int, kernel: int):
        super().__init__(dim, dim, kernel, padding=kernel // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> the same shape."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def build_mixer(name: str, dim: int) -> nn.Module:
    """Token mixer of channels-last maps [B, H, W, C].

    Raises:
        InputError: unknown name.
    """
    _require('mixer', name, MIXERS)
    if name == 'identity':
        return nn.Identity()
    if name in KERNELS:
        return DepthwiseConv(dim, KERNELS[name])
    return build_branch(name, dim)


def _require(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise InputError(f'probe: {what} {name!r} unknown; expected one of {", ".join(known)}')


class GatedBlock(nn.Module):
    """``x + fc2(gelu(g) * norm(mixer(c)))`` with ``g, c = fc1(norm(x))``.

    The norm behind the mixer is what lets long-range mixers train from random weights.
    """

    def __init__(self, mixer: str):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.fc1 = nn.Linear(WIDTH, 2 * INNER)
        self.mixer = build_mixer(mixer, INNER)
        self.mixer_norm = nn.LayerNorm(INNER)
        self.fc2 = nn.Linear(INNER, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> the same shape."""
        g, c = self.fc1(self.norm(x)).chunk(2, dim=-1)
        return x + self.fc2(F.gelu(g) * self.mixer_norm(self.mixer(c)))


class ProbeNet(nn.Module):
    """Patches, four gated blocks with one mixer, a linear head per token.

    Args:
        mixer (str): one of ``MIXERS``.
        position (str): ``'none'`` or ``'sincos'``, fixed sines of row and column added to the patches, without which
            attention cannot tell one place from another.

    Raises:
        InputError: unknown mixer or position.
    """

    def __init__(self, mixer: str, position: str = 'none'):
        super().__init__()
        _require('position', position, POSITIONS)
        self.position = position
        self.stem = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.blocks = nn.Sequential(*(GatedBlock(mixer) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, COLOURS + 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, 4H, 4W] -> logits [B, H, W, 5] of the four colours and background."""
        x = self.stem(images).permute(0, 2, 3, 1)  # [B, C, H, W] -> [B, H, W, C]
        if self.position == 'sincos':
            x = x + sincos_position(*x.shape[1:]).to(x)
        return self.head(self.norm(self.blocks(x)))


def sincos_position(height: int, width: int, dim: int) -> Tensor:
    """[H, W, dim] sines and cosines of row and column, a quarter of ``dim`` each (MAE's table, "Attention Is All You
    Need" section 3.5 along each axis)."""
    rates = 10000 ** (-torch.arange(dim // 4) / (dim // 4))
    rows, columns = (torch.arange(side)[:, None] * rates for side in (height, width))  # [side, dim / 4]
    rows, columns = (torch.cat((angle.sin(), angle.cos()), dim=1) for angle in (rows, columns))
    return torch.cat((rows[:, None].expand(-1, width, -1), columns.expand(height, -1, -1)), dim=-1)


@dataclass(frozen=True)
class Arm:
    """One training: what is trained on what, from which seed.

    Attributes:
        task (LongRangeTask): the data.
        mixer (str): one of ``MIXERS``.
        seed (int): of weights and data; arms with one seed see the same images in the same order.
        steps (int): of training.
        position (str): position code of the net.
        images (int): fresh images that it is tested on.

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
        _require('mixer', self.mixer, MIXERS)
        _require('position', self.position, POSITIONS)
        if self.steps < 1 or self.images < 1:
            raise InputError(f'probe: {self.steps} steps and {self.images} test images, expected 1 or more')
        if not 0 <= self.seed < TEST_SEEDS:
            raise InputError(f'probe: seed {self.seed}, expected 0 to {TEST_SEEDS - 1}')

    @property
    def batch_size(self) -> int:
        return max(2, TOKENS_PER_STEP // self.task.tokens**2)

    def settings(self) -> dict:
        """Everything that decides the outcome, as plain values."""
        return {**asdict(self.task), **{key: value for key, value in asdict(self).items() if key != 'task'}}


def train(arm: Arm, progress: Callable[[int, float], None] | None = None) -> ProbeNet:
    """Train one net: AdamW 3e-3, 50 steps of warm-up, cosine to zero, gradients clipped at norm 1.

    Args:
        arm: what to train.
        progress: called with step and loss after every step.

    Returns:
        ProbeNet: in evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(arm.seed)
        net = ProbeNet(arm.mixer, arm.position)
    generator = torch.Generator().manual_seed(arm.seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE)
    warm_up = min(WARM_UP, arm.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * step / arm.steps)))
    )
    for step in range(arm.steps):
        batch = arm.task.batch(arm.batch_size, generator)
        loss = probe_loss(net(batch.images), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, loss.item())
    return net.eval()


def probe_loss(logits: Tensor, labels: Tensor) -> Tensor:
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
def count_correct(net: nn.Module, arm: Arm) -> Tensor:
    """Test on fresh images that no training seed produces.

    A shape counts as right if its colour's logit is the largest of the four colours' (background aside, so that
    chance is a quarter).

    Returns:
        Tensor: [images, bins, 2] int64, how many shapes were right and how many there were.
    """
    generator = torch.Generator().manual_seed(TEST_SEEDS + arm.seed)
    bins, counts = distance_bins(arm.task.tokens), []
    for start in range(0, arm.images, arm.batch_size):
        images, labels, distances = arm.task.batch(arm.batch_size, generator)
        right = net(images)[..., :COLOURS].argmax(-1) == labels
        inside = torch.stack([(distances >= first) & (distances <= last) for first, last in bins], dim=1)
        both = torch.stack((inside & right[:, None], inside), dim=2)  # [B, bins, 2, n, n]
        counts.append(both.sum((-2, -1))[: arm.images - start])
    return torch.cat(counts)


def run_arm(arm: Arm, progress: Callable[[int, float], None] | None = None) -> dict:
    """Train and test one arm.

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

    net = train(arm, note)
    counts = count_correct(net, arm)
    low, high = bootstrap(counts, arm.seed)
    total = counts.sum(0).tolist()
    bins = [
        dict(first=first, last=last, correct=correct, total=shapes, low=round(a, 4), high=round(b, 4))
        for (first, last), (correct, shapes), a, b in zip(
            distance_bins(arm.task.tokens), total, low.tolist(), high.tolist()
        )
    ]
    return dict(
        **arm.settings(),
        bins=bins,
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        loss=sum(losses[-10:]) / len(losses[-10:]),
        seconds=round(time.perf_counter() - start, 1),
    )


def bootstrap(counts: Tensor, seed: int, draws: int = 1000) -> tuple[Tensor, Tensor]:
    """95 % percentile intervals of the accuracy per bin; whole images are drawn, because the shapes of one share cues.

    Args:
        counts: [images, bins, 2] as from :func:`count_correct`.
        seed: of the draws.
        draws: how many.

    Returns:
        tuple[Tensor, Tensor]: lower and upper ends, [bins].
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(counts), (draws, len(counts)), generator=generator)
    weights = torch.zeros(draws, len(counts)).scatter_add_(1, chosen, torch.ones(chosen.shape))
    correct, total = (weights @ counts[..., i].float() for i in (0, 1))  # [draws, bins]
    accuracy = correct / total.clamp(min=1)
    return tuple(accuracy.quantile(torch.tensor([0.025, 0.975]), dim=0))


def token_reach(net: ProbeNet, tokens: int, at: tuple[int, int], seed: int = 0) -> Tensor:
    """Which tokens' pixels the logits of one token depend on, by the gradient.

    Args:
        net: any net; it is read in float64, where far gradients do not underflow.
        tokens: side of the image in tokens.
        at: row and column of the token that is asked.
        seed: of the random image.

    Returns:
        Tensor: bool [n, n].
    """
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(1, 3, *2 * [PATCH * tokens], generator=generator, dtype=torch.float64).requires_grad_()
    logits = net.double()(image)[0, at[0], at[1]]
    logits.mul(torch.randn(logits.shape, generator=generator, dtype=torch.float64)).sum().backward()
    grid = image.grad[0].unflatten(2, (tokens, PATCH)).unflatten(1, (tokens, PATCH))  # [3, n, 4, n, 4]
    return (grid != 0).any(-1).any(2).any(0)


def radius(reach: Tensor, at: tuple[int, int]) -> int:
    """Largest Chebyshev distance from ``at`` to a token of ``reach`` [n, n]."""
    rows, columns = reach.nonzero(as_tuple=True)
    return int(torch.maximum((rows - at[0]).abs(), (columns - at[1]).abs()).max())


def arms(
    task: LongRangeTask, mixers: Sequence[str], seeds: Sequence[int], chance_seeds: Sequence[int] = (), **options
) -> list[Arm]:
    """Every mixer with every seed, then every mixer trained with shuffled cues with every one of ``chance_seeds``.

    Seeds are outermost, so that what is stopped early has whole seeds; ``options`` go to :class:`Arm`.
    """
    options.setdefault('steps', STEPS[task.task])
    shuffled = replace(task, shuffled=True)
    return [
        Arm(data, mixer, seed, **options)
        for data, those in ((task, seeds), (shuffled, chance_seeds))
        for seed in those
        for mixer in mixers
    ]
