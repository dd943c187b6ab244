"""The net of the long-range task, in which only the mixer moves information between tokens.

It has non-overlapping 4x4 patches, norms per token and one linear layer per token as head. Hierarchies, pyramid
pooling, batch norm and group norm would all let every token see the whole image.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbackbones.analysis.long_range.choices import HYBRIDS, KERNELS, MAXIMA, MIXERS, POSITIONS
from mmbackbones.datasets.long_range import COLOURS, PATCH, grid_of
from mmbackbones.errors import InputError
from mmbackbones.layers.token_mixers import build_branch, names_in_turn

WIDTH, INNER, DEPTH = 48, 64, 4


class DepthwiseConv(nn.Conv2d):
    """Depthwise convolution of a channels-last map, zeros beyond the border."""

    def __init__(self, dim: int, kernel: int):
        super().__init__(dim, dim, kernel, padding=kernel // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> the same shape."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class MaxOverTokens(nn.Module):
    """The largest value of each channel over the tokens of the image, or of each row. A positive control.

    A gated block with it solves the task in one layer: channels that detect one cue each, their maximum, and a gate
    that reads the channels of the token's own key. A maximum stays as large in an image of more tokens, where a mean
    is diluted, so that nothing but a broken set-up or too short a training keeps it from learning.
    """

    def __init__(self, rows: bool):
        super().__init__()
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> the same shape."""
        return x.amax(2 if self.rows else (1, 2), keepdim=True).expand_as(x)


def build_mixer(name: str, dim: int) -> nn.Module:
    """Token mixer of channels-last maps [B, H, W, C].

    Raises:
        InputError: unknown name, or several mixers that take turns.
    """
    require_known('mixer', name, [each for each in MIXERS if each not in HYBRIDS])
    if name == 'identity':
        return nn.Identity()
    if name in KERNELS:
        return DepthwiseConv(dim, KERNELS[name])
    if name in MAXIMA:
        return MaxOverTokens(rows=name == 'row-max')
    return build_branch(name, dim)


def require_known(what: str, name: str, known: Sequence[str]) -> None:
    """Refuse a name.

    Raises:
        InputError: it is not among ``known``.
    """
    if name not in known:
        raise InputError(f'long-range task: {what} {name!r} unknown; expected one of {", ".join(known)}')


class GatedBlock(nn.Module):
    """``x + fc2(gelu(g) * norm(mixer(c)))`` with ``g, c = fc1(norm(x))``.

    Without the norm after the mixer, long-range mixers do not train from random weights.
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


class LongRangeNet(nn.Module):
    """Patches, four gated blocks with one mixer or two that take turns, a linear head per token.

    Args:
        mixer (str): one of ``MIXERS``.
        position (str): ``'none'`` or ``'sincos'``, fixed sines of row and column that are added to the patches. Without
            them attention has no position information.

    Raises:
        InputError: unknown mixer or position.
    """

    def __init__(self, mixer: str, position: str = 'none'):
        super().__init__()
        require_known('mixer', mixer, MIXERS)
        require_known('position', position, POSITIONS)
        self.position = position
        self.stem = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        mixers = names_in_turn('long-range task: mixers', HYBRIDS.get(mixer, mixer), DEPTH, MIXERS)
        self.blocks = nn.Sequential(*map(GatedBlock, mixers))
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


def receptive_field(net: LongRangeNet, tokens: int | tuple[int, int], at: tuple[int, int], seed: int = 0) -> Tensor:
    """The tokens whose pixels affect the logits of one token, by the gradient.

    Args:
        net: any net; it runs in float64, so that far gradients do not underflow.
        tokens: side of the image in tokens, or rows and columns.
        at: row and column of the token of the logits.
        seed: seed of the random image.

    Returns:
        Tensor: bool [H, W].
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = grid_of(tokens)
    image = torch.randn(1, 3, PATCH * height, PATCH * width, generator=generator, dtype=torch.float64).requires_grad_()
    logits = net.double()(image)[0, at[0], at[1]]
    logits.mul(torch.randn(logits.shape, generator=generator, dtype=torch.float64)).sum().backward()
    grid = image.grad[0].unflatten(2, (width, PATCH)).unflatten(1, (height, PATCH))  # [3, H, 4, W, 4]
    return (grid != 0).any(-1).any(2).any(0)


def radius(field: Tensor, at: tuple[int, int]) -> int:
    """Largest Chebyshev distance from ``at`` to a token of the receptive field ``field``, bool [H, W]."""
    rows, columns = field.nonzero(as_tuple=True)
    return int(torch.maximum((rows - at[0]).abs(), (columns - at[1]).abs()).max())
