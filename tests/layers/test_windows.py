"""Windows: the reference is timm's on whole windows, and the map itself on the way back."""

import pytest
import torch
from timm.models.swin_transformer import window_partition

from mmbackbones.layers.windows import into_windows, missing, out_of_windows


@pytest.mark.parametrize('sides', [(7, 7), (4, 6), (1, 3)], ids=str)
@pytest.mark.parametrize('grid', [(14, 21), (8, 12), (5, 1), (1, 30)], ids=str)
def test_cutting_and_putting_together(grid, sides):
    x = torch.randn(2, *grid, 3, generator=torch.Generator().manual_seed(0))
    windows = into_windows(x, sides)
    assert torch.equal(out_of_windows(windows, sides, x.shape), x)
    padded = torch.zeros(2, *(side + -side % window for side, window in zip(grid, sides)), 3)
    padded[:, : grid[0], : grid[1]] = x
    assert torch.equal(windows, window_partition(padded, sides).flatten(1, 2))


def test_missing():
    assert [missing(side, 4) for side in (1, 3, 4, 5, 8)] == [3, 1, 0, 3, 0]
