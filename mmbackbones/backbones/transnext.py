"""TransNeXt: each token attends to its neighbours and to a pooled map at once, in one softmax.

Paper: "TransNeXt: Robust Foveal Visual Perception for Vision Transformers", CVPR 2024, https://arxiv.org/abs/2311.17132
Authors' code and weights: https://github.com/DaiShiResearch/TransNeXt (Apache-2.0). Written anew from facts and from
recorded activations of that code. The authors' CUDA kernels compute what is plain PyTorch here, with the same numbers.

Every map has the norm of its stage, which is part of the weights and feeds the next stage. So ``norm_cfg`` is None by
default. Where a map is smaller than its pooling ratio the authors' code fails. Here it is pooled to one token.
"""

import functools
import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from typing_extensions import Unpack

from mmbackbones.backbones.base import RunOptions, StagedBackbone
from mmbackbones.checkpoints.adapters.transnext import convert_transnext
from mmbackbones.errors import InputError
from mmbackbones.registry import MODELS

WINDOW = 3  # the neighbours of a token, itself included
STAGE_EPS, EMBED_EPS = 1e-6, 1e-5  # the authors' embeddings and pooled tokens have PyTorch's default
FIRST_TEMPERATURE = math.log(math.expm1(1 / 0.24))  # softplus of it is 1 / 0.24
SHORTEST = 1e-12  # of a vector that is brought to unit length
POSITION_BIASES = ('interpolated', 'extrapolated')
UNDECAYED = ('query_embedding', 'relative_pos_bias_local', 'temperature')


class PatchEmbed(nn.Module):
    """Overlapping patches and LayerNorm: [B, C, H, W], or [B, H, W, C] if ``channels_last``, -> [B, h, w, dim]."""

    def __init__(self, channels: int, dim: int, kernel_size: int, stride: int, channels_last: bool):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, kernel_size, stride, kernel_size // 2)
        self.norm = nn.LayerNorm(dim, eps=EMBED_EPS)
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2) if self.channels_last else x  # [B, H, W, C] -> [B, C, H, W]
        return self.norm(self.proj(x).permute(0, 2, 3, 1))  # [B, C, H, W] -> [B, H, W, C]


class ConvGLU(nn.Module):
    """Gated MLP whose gate passes a depthwise convolution (the paper's section 3.4), on maps [B, H, W, C]."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, dim=-1)
        gate = self.dwconv(gate.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # [B, H, W, C] -> [B, C, H, W] -> back
        return self.fc2(F.gelu(gate) * value)


class CosineAttention(nn.Module):
    """Parts of both attentions: queries of unit length with an embedding, their scale, and the position bias.

    Args:
        dim (int): channels C.
        num_heads (int): attention heads.
        ratio (int): tokens on a side of the map for each pooled token.
        divisor (int): distance in tokens that counts as 1 in the position bias.
        grid_side (int | None): side of the square map for which the bias is computed and from which it is resized.
            None: it is computed for the map as it is.
    """

    def __init__(self, dim: int, num_heads: int, ratio: int, divisor: int, grid_side: int | None):
        super().__init__()
        self.num_heads, self.ratio, self.divisor, self.grid_side = num_heads, ratio, divisor, grid_side
        head_width = dim // num_heads
        self.temperature = nn.Parameter(torch.full((num_heads, 1, 1), FIRST_TEMPERATURE))
        self.query_embedding = nn.Parameter(nn.init.trunc_normal_(torch.empty(num_heads, 1, head_width), std=0.02))
        self.cpb_fc1 = nn.Linear(2, 512)
        self.cpb_fc2 = nn.Linear(512, num_heads)
        self.proj = nn.Linear(dim, dim)

    def heads(self, x: Tensor) -> Tensor:
        """[B, ..., C] -> [B, heads, L, C / heads]"""
        return x.flatten(1, -2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def unit(self, x: Tensor) -> Tensor:
        """The same with heads of unit length, float32: half precision has no room for the squares.

        A vector of zeros stays one and has no gradient. ``F.normalize`` would multiply its gradient by 1e12: before
        training, every token of an image's padding is such a vector.
        """
        x = self.heads(x).float()
        length = x.norm(dim=-1, keepdim=True)
        return x.masked_fill(length < SHORTEST, 0) / length.clamp_min(SHORTEST)

    def scale(self, q: Tensor, lengths: Tensor) -> Tensor:
        """Queries of unit length -> queries whose products are logits; ``lengths`` are the keys of each token."""
        return (q + self.query_embedding) * (F.softplus(self.temperature) * lengths.log())

    def position_bias(self, height: int, width: int) -> Tensor:
        """Bias of each token towards each pooled token, [heads, height * width, pooled tokens].

        It is continuous in the distance (the paper's section 3.3): an MLP of signed logarithms.
        """
        square = (height, width) if self.grid_side is None else (self.grid_side, self.grid_side)
        table, (row_of, column_of) = self._table(*square)
        # The axes are resized one after the other, rows while the columns are still distances: the bias of the whole
        # square is never made.
        bias = self._unfold(table.transpose(1, 2), row_of, height)  # [heads, columns, H, h]
        bias = self._unfold(bias.permute(0, 2, 3, 1), column_of, width)  # [heads, H, h, W, w]
        return bias.transpose(2, 3).flatten(3).flatten(1, 2)

    def _unfold(self, table: Tensor, places: Tensor, size: int) -> Tensor:
        """From distances on an axis to pairs of tokens on it, [..., distances] -> [..., size, pooled tokens].

        ``places`` is the index of each pair [side, pooled side]. If the side is not ``size``, the axis is resized.
        """
        pairs = table.index_select(-1, places.flatten()).unflatten(-1, places.shape)
        if size == places.shape[0]:
            return pairs
        target = (size, _pooled(size, self.ratio))
        resized = F.interpolate(pairs.flatten(0, -3)[None], size=target, mode='bilinear', align_corners=False)
        return resized.view(*table.shape[:-1], *target)

    def _table(self, height: int, width: int) -> tuple[Tensor, list[Tensor]]:
        """Bias of each pair of distances, [heads, rows, columns], and which of them each pair of tokens has.

        The latter are indices [H, h] of rows and [W, w] of columns.
        """
        device = self.temperature.device
        known = isinstance(height, int) and isinstance(width, int)
        distances = _distances if known else _half_steps
        (rows, row_of), (columns, column_of) = (distances(side, self.ratio, device) for side in (height, width))
        table = torch.stack(torch.meshgrid(rows, columns, indexing='ij'), dim=-1) * (8 / self.divisor)
        table = table.sign() * (1 + table.abs()).log2() / 3
        table = self.cpb_fc2(F.relu(self.cpb_fc1(table))).permute(2, 0, 1)
        return table, [row_of, column_of]


class GlobalAttention(CosineAttention):
    """Cosine attention over all tokens, on maps [B, H, W, C]."""

    def __init__(self, dim: int, num_heads: int, divisor: int, grid_side: int | None):
        super().__init__(dim, num_heads, 1, divisor, grid_side)
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q = self.scale(self.unit(q), torch.full((1,), height * width, dtype=torch.float32, device=x.device))
        k, v = self.unit(k), self.heads(v)
        bias = self.position_bias(height, width)
        y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=bias.to(v.dtype), scale=1.0)
        return self.proj(y.transpose(1, 2).flatten(2).unflatten(1, (height, width)))  # -> [B, H, W, C]


class AggregatedAttention(CosineAttention):
    """Cosine attention over a token's neighbours and the pooled map (the paper's section 3.2), on maps [B, H, W, C].

    The weights of the neighbours have a second part after the softmax, which depends on the query alone.
    """

    def __init__(self, dim: int, num_heads: int, ratio: int, divisor: int, grid_side: int | None):
        super().__init__(dim, num_heads, ratio, divisor, grid_side)
        neighbours, head_width = WINDOW**2, dim // num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.sr = nn.Conv2d(dim, dim, 1)
        self.norm = nn.LayerNorm(dim, eps=EMBED_EPS)
        self.relative_pos_bias_local = nn.Parameter(torch.empty(num_heads, neighbours))
        self.learnable_tokens = nn.Parameter(torch.empty(num_heads, head_width, neighbours))
        self.learnable_bias = nn.Parameter(torch.zeros(num_heads, 1, neighbours))
        nn.init.trunc_normal_(self.relative_pos_bias_local, std=4e-4)
        nn.init.trunc_normal_(self.learnable_tokens, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        grid = height, width = tuple(x.shape[1:3])
        q = self.unit(self.q(x))  # [B, heads, L, d]
        k, v = self.kv(x).chunk(2, dim=-1)
        k, v = self.unit(k), self.heads(v)
        pooled_k, pooled_v = self.kv(self.pool(x)).chunk(2, dim=-1)
        pooled_k, pooled_v = self.unit(pooled_k), self.heads(pooled_v)

        inside = _inside(height, width, x.device)  # [L, 9]
        lengths = pooled_k.shape[2] + inside.sum(-1, keepdim=True)
        scaled = self.scale(q, lengths)
        near = torch.stack([(scaled * part).sum(-1) for part in _shifts(k, grid)], dim=-1)
        near = (near + self.relative_pos_bias_local[:, None]).masked_fill(~inside, -math.inf)
        far = scaled @ pooled_k.transpose(-2, -1) + self.position_bias(height, width)
        weights = torch.cat((near, far), dim=-1).softmax(dim=-1)  # [B, heads, L, 9 + pooled tokens]
        near, far = weights.split((near.shape[-1], far.shape[-1]), dim=-1)
        near = near + (q @ self.learnable_tokens + self.learnable_bias)

        y = far @ pooled_v
        for weight, part in zip(near.unsqueeze(-1).unbind(-2), _shifts(v, grid)):
            y = y + weight * part
        return self.proj(y.transpose(1, 2).flatten(2).unflatten(1, grid))  # [B, heads, L, d] -> [B, H, W, C]

    def pool(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> pooled tokens [B, h, w, C]."""
        height, width = x.shape[1:3]
        x = F.gelu(self.sr(x.permute(0, 3, 1, 2)))
        if isinstance(height, int) and isinstance(width, int):
            x = F.adaptive_avg_pool2d(x, (_pooled(height, self.ratio), _pooled(width, self.ratio)))
        else:  # an export for any size, in which that operator would keep the bins of the example's size
            rows, columns = (_bins(side, _pooled(side, self.ratio), x) for side in (height, width))
            x = rows @ x @ columns.transpose(0, 1)
        return self.norm(x.permute(0, 2, 3, 1))


class TransNeXtBlock(nn.Module):
    """``x + attention(LN(x))``, then ``x + ConvGLU(LN(x))``, on maps [B, H, W, C]."""

    def __init__(self, dim: int, attention: CosineAttention, hidden: int, drop_path: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=STAGE_EPS), nn.LayerNorm(dim, eps=STAGE_EPS)
        self.attn, self.mlp = attention, ConvGLU(dim, hidden)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@MODELS.register_module()
class TransNeXt(StagedBackbone):
    """TransNeXt for detection and segmentation.

    Keys of ``arch`` besides ``dims`` and ``depths``: ``num_heads`` (four, divisors of the widths), ``ratios`` (tokens
    on a side for each pooled one; 1: attention over all tokens; 8, 4, 2 and 1 by default), ``mlp_ratios`` (8, 8, 4 and
    4 by default; the hidden layer has two thirds of it) and ``pretrain_size`` (px of the images whose distances the
    position bias has learnt, 224 by default).

    Args:
        img_size (int): side in px of the square image from whose position bias others are resized: 800 in the authors'
            Mask R-CNN, 512 in their UperNet.
        position_bias (str): ``'interpolated'``, the authors' default, resizes the bias of ``img_size``, so that a wide
            image has the distances of the square. ``'extrapolated'`` computes it for the true distances; ``img_size``
            then has no effect. Both agree on squares of ``img_size``.

    The other arguments are those of :class:`Backbone`.
    """

    archs = {
        'micro': dict(dims=48, depths=(2, 2, 15, 2), num_heads=(2, 4, 8, 16)),
        'micro_aaaa': dict(
            dims=48, depths=(2, 2, 15, 2), num_heads=(2, 4, 8, 16), ratios=(16, 8, 4, 2), pretrain_size=256
        ),
        'tiny': dict(dims=72, depths=(2, 2, 15, 2), num_heads=(3, 6, 12, 24)),
        'small': dict(dims=72, depths=(5, 5, 22, 5), num_heads=(3, 6, 12, 24)),
        'base': dict(dims=96, depths=(5, 5, 23, 5), num_heads=(4, 8, 16, 32)),
    }
    arch_required = ('dims', 'depths', 'num_heads')
    arch_defaults = dict(ratios=(8, 4, 2, 1), mlp_ratios=(8, 8, 4, 4), pretrain_size=224)
    norm_eps = STAGE_EPS
    allowed_unexpected: tuple[str, ...] = ('head.',)
    convert_state_dict = staticmethod(convert_transnext)

    def __init__(
        self,
        *,
        img_size: int = 224,
        position_bias: str = POSITION_BIASES[0],
        norm_cfg: dict | str | None = None,
        **run: Unpack[RunOptions],
    ):
        self.check_choice(POSITION_BIASES, position_bias=position_bias)
        if img_size < 32:
            raise InputError(f'{self.family}: img_size={img_size}, expected 32 px or more')
        self.img_size, self.extrapolated = img_size, position_bias == 'extrapolated'
        super().__init__(norm_cfg=norm_cfg, **run)
        for stage, dim in zip(self.layers, self.arch.dims):
            stage.norm = nn.LayerNorm(dim, eps=STAGE_EPS)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] ** 2 * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                nn.init.zeros_(module.bias)

    @classmethod
    def resolve_arch(cls, arch: str | dict | None) -> SimpleNamespace:
        options = super().resolve_arch(arch)
        for key in ('num_heads', 'ratios', 'mlp_ratios'):
            value = getattr(options, key)
            if len(value) != len(options.dims) or min(value) < 1:
                raise InputError(f'{cls.__name__}: arch {key}={value}, expected {len(options.dims)} positive numbers')
        if any(dim % heads for dim, heads in zip(options.dims, options.num_heads)):
            raise InputError(
                f'{cls.__name__}: arch num_heads={options.num_heads}, expected divisors of the widths {options.dims}'
            )
        if options.pretrain_size < 64:
            raise InputError(f'{cls.__name__}: arch pretrain_size={options.pretrain_size}, expected 64 px or more')
        return options

    def make_stem(self, dim: int) -> nn.Module:
        return PatchEmbed(3, dim, 7, 4, channels_last=False)

    def make_block(self, stage: int, index: int, dim: int, drop_path: float) -> TransNeXtBlock:
        heads, ratio, stride = self.arch.num_heads[stage], self.arch.ratios[stage], 2 ** (stage + 2)
        divisor = self.arch.pretrain_size // stride - 1
        grid_side = None if self.extrapolated else self.img_size // stride
        attention = (
            GlobalAttention(dim, heads, divisor, grid_side)
            if ratio == 1
            else AggregatedAttention(dim, heads, ratio, divisor, grid_side)
        )
        return TransNeXtBlock(dim, attention, int(2 * int(self.arch.mlp_ratios[stage] * dim) / 3), drop_path)

    def make_downsample(self, dim: int, next_dim: int) -> nn.Module:
        return PatchEmbed(dim, next_dim, 3, 2, channels_last=True)

    def run_blocks(self, stage: int, x: Tensor) -> Tensor:
        return self.layers[stage].norm(super().run_blocks(stage, x))

    def no_weight_decay(self) -> set[str]:
        """The MLPs of the position bias, too; learnable tokens decay, as in the authors' configs."""
        own = {name for name, _ in self.named_parameters() if name.endswith(UNDECAYED) or '.cpb_fc' in name}
        return super().no_weight_decay() | own


def _pooled(side: int, ratio: int) -> int:
    return max(side // ratio, 1)


def _bins(side: int, count: int, like: Tensor) -> Tensor:
    """Adaptive average pooling of one axis as a matrix [count, side]; sizes may be symbols, so it has no branch."""
    ones, pooled_ones = like.new_ones(side), like.new_ones(count)
    tokens, bins = ones.cumsum(0) - 1, (pooled_ones.cumsum(0) - 1)[:, None]
    length, number = ones.sum(), pooled_ones.sum()
    # Token t is in bin i if floor(i * length / number) <= t < ceil((i + 1) * length / number).
    inside = ((tokens + 1) * number > bins * length) & (tokens * number < (bins + 1) * length)
    weights = inside.to(like.dtype)
    return weights / weights.sum(1, keepdim=True)


def _distances(side: int, ratio: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Distances in tokens from the centres of adaptive pooling to tokens on one axis, ascending, each once.

    Also the index of each pair's: [side, pooled].
    """
    steps, places = _known_distances(side, ratio)
    return torch.tensor(steps, dtype=torch.float32, device=device), torch.tensor(places, device=device)


@functools.lru_cache(64)
def _known_distances(side: int, ratio: int) -> tuple[list[float], list[list[int]]]:
    count = _pooled(side, ratio)
    # First and last token of each bin of adaptive pooling: their mean is that of all of them.
    centres = [(side * i // count + -(-side * (i + 1) // count) - 1) / 2 for i in range(count)]
    pairs = [[token - centre for centre in centres] for token in range(side)]
    known = sorted({distance for row in pairs for distance in row})
    place = {distance: i for i, distance in enumerate(known)}
    return known, [[place[distance] for distance in row] for row in pairs]


def _half_steps(side: int, ratio: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The same for a side that may be a symbol: every multiple of half a token from end to end, used or not."""
    count = _pooled(side, ratio)
    tokens, bins = (torch.arange(number, device=device) for number in (side, count))
    first, last = bins * side // count, ((bins + 1) * side + count - 1) // count - 1
    furthest = 2 * side - 2  # half tokens
    distances = (torch.arange(2 * furthest + 1, device=device) - furthest) / 2
    return distances, 2 * tokens[:, None] - (first + last) + furthest


def _inside(height: int, width: int, device: torch.device) -> Tensor:
    """Whether each of a token's neighbours lies in the map, [H * W, 9], row by row."""
    offsets = torch.arange(WINDOW, device=device) - WINDOW // 2
    rows, columns = (
        (place >= 0) & (place < side)
        for side, place in ((side, torch.arange(side, device=device)[:, None] + offsets) for side in (height, width))
    )
    inside = rows[:, None, :, None] & columns[None, :, None, :]  # [H, W, 3, 3]
    return inside.flatten(2).flatten(0, 1)


def _shifts(x: Tensor, grid: tuple[int, int]) -> list[Tensor]:
    """The neighbours of each token, one tensor [B, heads, L, d] per place in the window, zeros outside of the map."""
    height, width = grid
    x = F.pad(x.unflatten(2, grid), (0, 0, *2 * (WINDOW // 2,), *2 * (WINDOW // 2,)))  # [B, heads, H + 2, W + 2, d]
    places = [(i, j) for i in range(WINDOW) for j in range(WINDOW)]
    return [x[:, :, i : i + height, j : j + width].flatten(2, 3) for i, j in places]
