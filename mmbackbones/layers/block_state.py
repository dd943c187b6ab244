"""Block-state mixer: attention within blocks of a map, to its tokens and to states that a scan carries across blocks.

Source: "Block-State Transformers", NeurIPS 2023, https://arxiv.org/abs/2306.09539. Written from the paper, which is of
text. On maps it differs:

- Blocks are windows of up to 7x7 tokens, not spans of the sequence, and nothing is causal. The states are the outputs
  of selective scans from both ends of the raster, at the block's own tokens, so that each block sees the whole map.
- One softmax runs over the block's tokens and its states, whose keys and values come from one projection. The mixer
  therefore has the parameters of full attention and of two scans together.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbackbones.errors import InputError
from mmbackbones.layers.ss2d import DirectionalScans
from mmbackbones.layers.windows import into_windows, out_of_windows

WIDEST_BLOCK = 7  # tokens per side


class BlockStateMixer(DirectionalScans):
    """Attention of each block of a map to its tokens and its states.

    Args:
        dim (int): channels C.
        d_state (int): state size N of the scans.
        dt_rank (int): rank of the projection of their ``dt``.
        head_width (int): channels of a head, a divisor of C.
    """

    def __init__(self, dim: int, d_state: int, dt_rank: int, head_width: int):
        super().__init__()
        if dim % head_width:
            raise InputError(f'block-state: head_width={head_width}, expected a divisor of the {dim} channels')
        self.head_width = head_width
        self.add_scans(dim, 2, d_state, dt_rank)
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)
        self.reset_ssm_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> map of the same shape."""
        sides = block_sides(*x.shape[1:3])
        query = self.heads(into_windows(self.q(x), sides))
        seen = [into_windows(self.kv(source), sides) for source in (x, self.states(x).to(x.dtype))]
        key, value = map(self.heads, torch.cat(seen, dim=1).chunk(2, dim=-1))  # tokens, then states
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask(x, sides))
        y = y.transpose(1, 2).flatten(2)  # [M, heads, L, width] -> [M, L, C]
        return self.proj(out_of_windows(y, sides, x.shape))

    def heads(self, x: Tensor) -> Tensor:
        """[M, L, C] -> [M, heads, L, width]"""
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)

    @staticmethod
    def mask(x: Tensor, sides: tuple[int, int]) -> Tensor | None:
        """False for the keys that fill the last blocks: [M, 1, 1, 2 L], or None where blocks fit."""
        batch, height, width = x.shape[:3]
        if not (height % sides[0] or width % sides[1]):
            return None
        real = into_windows(x.new_ones(1, height, width, 1, dtype=torch.bool), sides)[..., 0]
        return real.repeat(batch, 2)[:, None, None]

    def states(self, x: Tensor) -> Tensor:
        """Outputs of the scans from both ends of the raster, normalized: map [B, H, W, C] -> the same in float32."""
        y = self.scan_directions(x.permute(0, 3, 1, 2), [None, None], [False, True])
        return F.layer_norm(y, y.shape[-1:]).unflatten(1, x.shape[1:3])


def block_sides(height: int, width: int) -> tuple[int, int]:
    """Sides of the blocks of a map: as few blocks as sides up to 7 allow, and those as even as possible."""
    rows, columns = (math.ceil(side / math.ceil(side / WIDEST_BLOCK)) for side in (height, width))
    return rows, columns


def block_state_macs(dim: int, height: int, width: int) -> int:
    """Multiply-accumulates of the attention of :class:`BlockStateMixer` on one map, and of its states' keys and values.

    Both products over tokens and states, those that fill the last blocks included.
    """
    rows, columns = block_sides(height, width)
    queries = math.ceil(height / rows) * math.ceil(width / columns) * rows * columns
    return 4 * queries * rows * columns * dim + 2 * height * width * dim**2
