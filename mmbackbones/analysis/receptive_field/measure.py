"""Measure the effective receptive field of a backbone at a point (Luo et al., NeurIPS 2016, arXiv:1701.04128).

The output of one token is reduced to a number, the sum of its channels, each with a random sign. The gradient of that
number with respect to the image is computed. Its absolute value, summed over the three colours and averaged over the
images, is the effective receptive field.

Luo et al. sum the channels without signs. That sum is a constant behind a LayerNorm whose weights are equal, as they
are at the start of a training, and its gradient is rounding noise. The random signs, other ones for every image,
make every channel count.

What it means: the gradient says how the token's output answers to a small change of a pixel, with the weights and at
the images given. A pixel of value exactly 0 has no path to the token. What it does not mean: a wide field is not a
better network, a small gradient is not a missing path, and the field of random weights shows the architecture, not
what a training made of it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mmbackbones.errors import InputError


class Field(NamedTuple):
    """The effective receptive field of one token.

    Attributes:
        stage: number of the map among those that the backbone returns, from 0.
        token: row and column of the token in its map.
        map_size: rows and columns of the map.
        values: float32 array [H, W], one value per pixel of the image, 0 or more; in gradient per unit of the
            backbone's input.
    """

    stage: int
    token: tuple[int, int]
    map_size: tuple[int, int]
    values: np.ndarray

    @property
    def seen(self) -> float:
        """Share of the pixels with a value above 0."""
        return float((self.values > 0).mean())

    def area(self, share: float) -> float:
        """The smallest share of the pixels that holds this share of the sum of all values; 0 for a field of zeros."""
        ordered = np.sort(self.values, axis=None)[::-1].cumsum(dtype=np.float64)
        if ordered[-1] == 0:
            return 0.0
        return float((np.searchsorted(ordered, share * ordered[-1]) + 1) / ordered.size)


def measure(
    backbone: nn.Module,
    images: Tensor,
    at: tuple[float, float],
    stages: Sequence[int] | None = None,
    seed: int = 0,
) -> list[Field]:
    """Compute the effective receptive fields of the tokens at a point.

    The backbone runs in evaluation mode, in the precision of its weights. Its mode and its parameters stay as they
    were.

    Args:
        backbone: a module that turns images [1, 3, H, W] into maps [1, C, h, w], such as the ``backbone`` of a
            detector or segmentor.
        images: [N, 3, H, W] floating, as the backbone gets them (normalized); the average runs over them. They are
            moved to the device of the backbone's weights, one by one.
        at: x and y in pixels of the images, from the upper left corner.
        stages: numbers of the maps among those that the backbone returns, from 0; None: all.
        seed: of the signs of the channels.

    Returns:
        list[Field]: one per stage, in the order of ``stages``.

    Raises:
        InputError: there is no image, the point is outside the images, or the backbone returns no map of that number.
    """
    if images.dim() != 4 or not len(images) or not images.is_floating_point():
        raise InputError(f'images: expected a float batch [N, 3, H, W], got {images.dtype} {list(images.shape)}')
    height, width = images.shape[-2:]
    require_inside(at, (height, width))
    signs = torch.Generator().manual_seed(seed)
    sums: dict[int, np.ndarray] = {}
    tokens: dict[int, tuple[tuple[int, int], tuple[int, int]]] = {}
    with _still(backbone), torch.enable_grad():
        like = next(backbone.parameters(), images)
        for image in images:
            x = image[None].to(like.device, like.dtype).detach().requires_grad_(True)
            maps = backbone(x)
            maps = [maps] if isinstance(maps, Tensor) else list(maps)
            wanted = _require_stages(stages, len(maps))
            for stage in wanted:
                out = maps[stage]
                row, column = token = token_at(at, out.shape[-2:], (height, width), _stride(backbone, stage))
                tokens[stage] = token, (out.shape[-2], out.shape[-1])
                sign = torch.randint(0, 2, (out.shape[1],), generator=signs).to(out) * 2 - 1
                (gradient,) = torch.autograd.grad(
                    (out[0, :, row, column] * sign).sum(), x, retain_graph=stage != wanted[-1]
                )
                values = gradient[0].abs().sum(0).float().cpu().numpy()
                sums[stage] = sums.get(stage, 0) + values / len(images)
    return [Field(stage, *tokens[stage], sums[stage]) for stage in wanted]


def require_inside(at: tuple[float, float], size: tuple[int, int]) -> None:
    """Refuse a point outside an image.

    Args:
        at: x and y in pixels, from the upper left corner.
        size: height and width of the image.

    Raises:
        InputError: it is outside.
    """
    (x, y), (height, width) = at, size
    if not (0 <= x < width and 0 <= y < height):
        raise InputError(
            f'point x={x:g}, y={y:g}: outside the image of {width}x{height} px; '
            f'expected x from 0 to {width - 1} and y from 0 to {height - 1}'
        )


def token_at(
    at: tuple[float, float], map_size: Sequence[int], size: tuple[int, int], stride: int | None = None
) -> tuple[int, int]:
    """Row and column of the token that covers a point.

    Args:
        at: x and y in pixels of the image.
        map_size: rows and columns of the map.
        size: height and width of the image.
        stride: pixels per token; None: the ratio of image and map.
    """
    (x, y), (rows, columns), (height, width) = at, map_size, size
    row = y // stride if stride else y * rows // height
    column = x // stride if stride else x * columns // width
    return min(int(row), rows - 1), min(int(column), columns - 1)


def _require_stages(stages: Sequence[int] | None, count: int) -> list[int]:
    wanted = list(range(count) if stages is None else stages)
    for stage in wanted:
        if not 0 <= stage < count:
            raise InputError(f'stage {stage}: the backbone returns {count} maps; expected 0 to {count - 1}')
    if not wanted:
        raise InputError('no stage is asked for')
    return wanted


def _stride(backbone: nn.Module, stage: int) -> int | None:
    strides = getattr(backbone, 'out_strides', None)
    return strides[stage] if strides else None


@contextmanager
def _still(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients of the parameters."""
    training = {part: part.training for part in module.modules()}
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.eval()
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for part, mode in training.items():
            part.training = mode
