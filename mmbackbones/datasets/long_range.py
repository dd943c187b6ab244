"""The synthetic long-range task: each dense label is given by a cue a known number of tokens away.

Every step draws fresh images.

An image is a grid of H x W tokens of 4x4 pixels. Some tokens are *shapes*, grey textures without colour. Each shape has
one *cue*. The label of a shape is the colour of its cue:

* ``row``: every row has one cue at one end, for all shapes of the row. It tests distance in the image, not in a
  sequence: a scan along rows needs at most W - 1 steps.
* ``routed``: six cues with different textures (keys) lie anywhere. The cue of a shape has the same key. It tests
  routing by content over the whole sequence.
* ``single``: one cue anywhere, for all shapes. It tests that training works and that nothing leaks: a mixer that sees
  the whole image solves it, and so does a global average.

Colours are independent and uniform, so a mixer that does not see the cue is right in a quarter of the cases.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mmbackbones.datasets.choices import CUE_SIDES, TASKS
from mmbackbones.errors import InputError

COLOURS = 4
BACKGROUND = COLOURS  # label of every token that no cue decides
PATCH = 4  # side of a token in pixels
SIDES = (16, 128)  # fewest and most tokens per side
# Share of shapes among the tokens that may be one. Where keys match, every shape is one more token like the cue.
DENSITY = {'row': 0.25, 'routed': 0.1, 'single': 0.1}
CUES, KEYS = 6, 8  # of the task ``routed``


class LongRangeBatch(NamedTuple):
    """Images, and label and distance of every token."""

    images: Tensor
    """[B, 3, 4H, 4W] float32, of about unit variance at any noise."""
    labels: Tensor
    """[B, H, W] int64: colour 0 .. 3 of a shape, ``BACKGROUND`` elsewhere."""
    distances: Tensor
    """[B, H, W] int64: Chebyshev distance of a shape to its cue, in tokens; 0 elsewhere."""


@dataclass(frozen=True)
class LongRangeTask:
    """One setting of the synthetic long-range task.

    Attributes:
        task (str): ``'row'``, ``'routed'`` or ``'single'``.
        tokens (int | tuple[int, int]): tokens per side, or rows H and columns W, each 16 .. 128. Equal sides are kept
            as one number.
        cue_side (str | None): place of the cues. ``'left'``, ``'right'``: in the columns at this end. ``'random'``: at
            either end of each row for ``row``, anywhere for the other tasks. ``'none'``: cues are not painted, and no
            mixer can beat chance. None: ``'left'`` for ``row``, ``'random'`` for the others.
        distractors (int): copies of every cue, 0 .. 3, each in another colour and at a possible place of the cue. The
            best possible accuracy is 1 / (1 + distractors), which is chance for 3.
        noise (float): standard deviation of the pixels' Gaussian noise; colours and textures are +-1.
        shuffled (bool): cues show the colours of other cues of their image (of another image in ``single``). The
            accuracy of a mixer on such data is its chance.
        copies (int): equal cues that are painted for each cue of ``routed`` and ``single``; the nearest one decides
            the distance. With more of them an image says more often what a net has to learn.
        reach (int | None): only tokens that are at most this far from their cue are shapes. None: all.

    Raises:
        InputError: one of these is out of its range.
    """

    task: str
    tokens: int | tuple[int, int] = 32
    cue_side: str | None = None
    distractors: int = 0
    noise: float = 0.1
    shuffled: bool = False
    copies: int = 1
    reach: int | None = None

    def __post_init__(self):
        if self.task not in TASKS:
            raise InputError(f'long-range task: task {self.task!r} unknown; expected one of {", ".join(TASKS)}')
        if self.cue_side is None:
            object.__setattr__(self, 'cue_side', 'left' if self.task == 'row' else 'random')
        if self.cue_side not in CUE_SIDES:
            raise InputError(
                f'long-range task: cue side {self.cue_side!r} unknown; expected one of {", ".join(CUE_SIDES)}'
            )
        for side in self.grid:
            if not SIDES[0] <= side <= SIDES[1]:
                raise InputError(f'long-range task: {side} tokens per side, expected {SIDES[0]} to {SIDES[1]}')
        height, width = self.grid
        object.__setattr__(self, 'tokens', height if height == width else (height, width))
        if not 0 <= self.distractors < COLOURS:
            raise InputError(f'long-range task: {self.distractors} distractors, expected 0 to {COLOURS - 1}')
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise InputError(f'long-range task: noise {self.noise}, expected a number of 0 or more')
        if not 1 <= self.copies <= self.most_copies:
            raise InputError(f'long-range task: {self.copies} copies of a cue, expected 1 to {self.most_copies} here')
        if self.reach is not None and self.reach < 1:
            raise InputError(f'long-range task: reach {self.reach}, expected 1 or more tokens')

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return grid_of(self.tokens)

    @property
    def most_copies(self) -> int:
        """The most copies of a cue: they fill half of the places of cues. ``row`` and distractors allow no copies."""
        if self.task == 'row' or self.distractors:
            return 1
        height, width = self.grid
        places = 2 * height if self.cue_side in ('left', 'right') else height * width
        return places // (2 * (CUES if self.task == 'routed' else 1))

    @property
    def farthest(self) -> int:
        """The largest distance of a shape to its cue that can occur."""
        height, width = self.grid
        return (width if self.task == 'row' else max(height, width)) - 1

    @property
    def ceiling(self) -> float:
        """The best possible accuracy, 0 .. 1."""
        return 1 / COLOURS if self.cue_side == 'none' or self.shuffled else 1 / (1 + self.distractors)

    def batch(self, size: int, generator: torch.Generator) -> LongRangeBatch:
        """Draw ``size`` new images on the device of the generator. The same generator state gives the same images.

        Raises:
            InputError: fewer than one image, or fewer than two if cues are shuffled between images.
        """
        least = 2 if self.shuffled and self.task == 'single' else 1
        if size < least:
            raise InputError(f'long-range task: a batch of {size} images, expected {least} or more')
        place = self._rows if self.task == 'row' else self._anywhere
        height, width = self.grid
        device = generator.device
        positions, groups, shapes = place(size, generator)
        cues, alike = positions.shape[1:]
        colours = torch.rand(size, cues, COLOURS, generator=generator, device=device).argsort(-1)
        colours = colours[..., :1].expand(-1, -1, alike) if self.copies > 1 else colours[..., :alike]
        keys = _choose(size, KEYS, cues, generator) if self.task == 'routed' else None

        decided = groups.flatten(1)
        row, column = torch.meshgrid(
            torch.arange(height, device=device), torch.arange(width, device=device), indexing='ij'
        )
        distances = None
        for copy in range(self.copies):  # distractors are no copies: the first of the look-alikes is the cue
            deciding = positions[..., copy].gather(1, decided).view_as(groups)
            away = torch.maximum((deciding // width - row).abs(), (deciding % width - column).abs())
            distances = away if distances is None else torch.minimum(distances, away)
        if self.reach is not None:
            shapes = shapes & (distances <= self.reach)
        labels = colours[..., 0].gather(1, decided).view_as(groups)

        paint = torch.zeros(size, height * width, 3, device=device)
        texture = torch.where(shapes, keys.gather(1, decided).view_as(groups) if keys is not None else 0, KEYS)
        texture = texture.flatten(1)
        if self.cue_side != 'none':
            shown = self._shuffle(colours, generator) if self.shuffled else colours
            at = positions.flatten(1)
            paint.scatter_(1, at[..., None].expand(-1, -1, 3), PALETTE.to(device)[shown.flatten(1)])
            if keys is not None:
                texture.scatter_(1, at, keys.repeat_interleave(alike, dim=1))
        return LongRangeBatch(
            self._render(paint, texture, generator), labels.where(shapes, BACKGROUND), distances.where(shapes, 0)
        )

    def _rows(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Places [B, H, 1 + distractors] of each row's cues, the row of each token and which tokens are shapes."""
        (height, width), alike = self.grid, 1 + self.distractors
        drawn = dict(generator=generator, device=generator.device)
        zone = max(2, alike)
        right = torch.rand(size, height, 1, **drawn) < 0.5
        if self.cue_side != 'random':
            right = torch.full_like(right, self.cue_side == 'right')
        columns = torch.rand(size, height, zone, **drawn).argsort(-1)[..., :alike]
        columns = torch.where(right, width - 1 - columns, columns)
        column = torch.arange(width, device=generator.device).expand(size, height, width)
        free = torch.where(right, column < width - zone, column >= zone)
        shapes = free & (torch.rand(size, height, width, **drawn) < DENSITY['row'])
        row = torch.arange(height, device=generator.device)[:, None]
        return columns + width * row, row.expand(size, height, width), shapes

    def _anywhere(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The same with cues anywhere, or in the two columns at one side; a token's cue is drawn."""
        (height, width), alike = self.grid, (1 + self.distractors) * self.copies
        drawn = dict(generator=generator, device=generator.device)
        cues = CUES if self.task == 'routed' else 1
        column = torch.arange(width, device=generator.device).expand(height, width).flatten()
        zone = {'left': column < 2, 'right': column >= width - 2}.get(self.cue_side, column >= 0)
        places = zone.nonzero().flatten()[_choose(size, int(zone.sum()), cues * alike, generator)]
        shapes = torch.rand(size, height * width, **drawn) < DENSITY[self.task]
        shapes.scatter_(1, places, False)
        groups = torch.randint(cues, (size, height, width), **drawn)
        return places.view(size, cues, alike), groups, shapes.view(size, height, width)

    def _shuffle(self, colours: Tensor, generator: torch.Generator) -> Tensor:
        """Give every cue the colours of another one: of its image, by a hidden random step, else of the next image."""
        size, cues, _ = colours.shape
        if cues == 1:
            return colours.roll(1, dims=0)
        step = torch.randint(1, cues, (size, 1), generator=generator, device=generator.device)
        other = (torch.arange(cues, device=generator.device) + step) % cues
        return colours.gather(1, other[..., None].expand_as(colours))

    def _render(self, paint: Tensor, texture: Tensor, generator: torch.Generator) -> Tensor:
        height, width = self.grid
        patches = paint[..., None, None] + TEXTURES.to(paint.device)[texture][:, :, None]  # [B, H*W, 3, 4, 4]
        patches = patches.unflatten(1, (height, width)).permute(0, 3, 1, 4, 2, 5)  # -> [B, 3, H, 4, W, 4]
        images = patches.reshape(len(paint), 3, PATCH * height, PATCH * width)
        noisy = images + self.noise * torch.randn(images.shape, generator=generator, device=generator.device)
        return noisy / math.hypot(1, self.noise)


def grid_of(tokens: int | Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a grid that is given by its side, by one number in a list, or by both.

    Raises:
        InputError: more than two numbers, or none.
    """
    sides = [tokens] if isinstance(tokens, int) else list(tokens)
    if not 1 <= len(sides) <= 2:
        given = ' '.join(map(str, sides)) or 'nothing'
        raise InputError(f'long-range task: tokens {given}, expected a side or rows and columns')
    return sides[0], sides[-1]


def _choose(size: int, among: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` different numbers below ``among``, in random order -> [size, count] int64."""
    return torch.rand(size, among, generator=generator, device=generator.device).argsort(-1)[:, :count]


def _textures() -> Tensor:
    """[KEYS + 1, 4, 4]: orthogonal +-1 patterns of zero mean (Walsh functions), then plain zero."""
    walsh = torch.ones(1, 1)
    for _ in range(4):
        walsh = torch.cat((torch.cat((walsh, walsh), 1), torch.cat((walsh, -walsh), 1)))
    return torch.cat((walsh[1 : 1 + KEYS], torch.zeros(1, PATCH * PATCH))).view(-1, PATCH, PATCH)


TEXTURES = _textures()
PALETTE = torch.tensor(
    [[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]
)  # equally far from each other
