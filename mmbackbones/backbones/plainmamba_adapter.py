"""PlainMamba with a ViT-Adapter: a small convolutional network beside the plain backbone gives maps of four strides.

Papers: "PlainMamba", BMVC 2024, https://arxiv.org/abs/2403.17695, section 4; "Vision Transformer Adapter for Dense
Predictions", ICLR 2023, https://arxiv.org/abs/2205.08534, section 3 and figure 4. The authors' code is at
https://github.com/ChenhongyiYang/PlainMamba and https://github.com/czczup/ViT-Adapter (Apache-2.0). Written anew on
mmcv's deformable attention; parameters have the names of that code.

No recorded activations of the authors' adapter exist, so only its number of parameters is checked.
This adapter takes any image size. Theirs must be multiples of 32.
"""

from typing import TypedDict

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmcv.ops import MultiScaleDeformableAttention
from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch
from timm.layers import DropPath
from torch import Tensor, nn
from typing_extensions import Unpack

from mmbackbones.backbones.plainmamba import PlainMamba
from mmbackbones.errors import InputError
from mmbackbones.registry import MODELS

LEVELS = 3  # strides 8, 16 and 32 beside the trunk; stride 4 only at the end
NUM_EXTRA = 2
BATCH_NORM = dict(type='BN')
Grid = tuple[int, int]


def conv_norm_relu(channels: int, out: int, stride: int, norm_cfg: dict) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, stride, 1, bias=False), build_norm_layer(norm_cfg, out)[1], nn.ReLU()]


class SpatialPrior(nn.Module):
    """Four maps of the image by convolutions: [B, 3, H, W] -> [B, C, ceil(H/s), ceil(W/s)] for s = 4, 8, 16, 32."""

    def __init__(self, dim: int, width: int, norm_cfg: dict):
        super().__init__()
        self.stem = nn.Sequential(
            *conv_norm_relu(3, width, 2, norm_cfg),
            *conv_norm_relu(width, width, 1, norm_cfg),
            *conv_norm_relu(width, width, 1, norm_cfg),
            nn.MaxPool2d(3, 2, 1),
        )
        self.conv2 = nn.Sequential(*conv_norm_relu(width, 2 * width, 2, norm_cfg))
        self.conv3 = nn.Sequential(*conv_norm_relu(2 * width, 4 * width, 2, norm_cfg))
        self.conv4 = nn.Sequential(*conv_norm_relu(4 * width, 4 * width, 2, norm_cfg))
        self.fc1, self.fc2 = nn.Conv2d(width, dim, 1), nn.Conv2d(2 * width, dim, 1)
        self.fc3, self.fc4 = nn.Conv2d(4 * width, dim, 1), nn.Conv2d(4 * width, dim, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for layer, project in zip(
            (self.stem, self.conv2, self.conv3, self.conv4), (self.fc1, self.fc2, self.fc3, self.fc4)
        ):
            x = layer(x)
            maps.append(project(x))
        return maps


class DeformableAttention(MultiScaleDeformableAttention):
    """mmcv's parameters and its PyTorch implementation, without the rest of mmcv's module.

    It has no residual and no dropout. Its grids are numbers, while mmcv's module reads them from a tensor. On CUDA,
    mmcv's module requires an operator that its CPU wheels lack.
    """

    def forward(self, query: Tensor, points: Tensor, value: Tensor, grids: list[Grid]) -> Tensor:
        """Queries [B, Q, C] at points [1, Q, 1, 2] of grids whose tokens are value [B, K, C] -> [B, Q, C]."""
        shape = (*query.shape[:2], self.num_heads, self.num_levels, self.num_points)
        # Filled in, for an export keeps no symbol of a tensor made from a list.
        sides = torch.stack([points.new_full((), side) for height, width in grids for side in (width, height)])
        cell = (1 / sides).view(-1, 2).to(query.dtype)
        places = points[:, :, None, :, None] + self.sampling_offsets(query).view(*shape, 2) * cell[:, None]
        weights = self.attention_weights(query).view(*shape[:3], -1).softmax(-1).view(shape)
        value = self.value_proj(value).unflatten(2, (self.num_heads, -1))
        return self.output_proj(multi_scale_deformable_attn_pytorch(value, grids, places, weights))


class Attend(nn.Module):
    """Base class of injector and extractor: each query attends to a few places of other maps, around its own place."""

    def __init__(self, dim: int, num_heads: int, num_points: int, num_levels: int):
        super().__init__()
        self.query_norm, self.feat_norm = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = DeformableAttention(dim, num_heads, num_levels, num_points, dropout=0.0)

    def attend(self, query: Tensor, query_grids: list[Grid], feat: Tensor, feat_grids: list[Grid]) -> Tensor:
        """[B, Q, C], [B, K, C] -> [B, Q, C]; the grids make up the tokens of each in order."""
        points = centres(query_grids, query.device)
        return self.attn(self.query_norm(query), points, self.feat_norm(feat), feat_grids)


def centres(grids: list[Grid], device: torch.device) -> Tensor:
    """Middle (x, y) of every cell, as shares of the image: [1, L, 1, 2]."""
    points = []
    for height, width in grids:
        y, x = ((torch.arange(side, device=device) + 0.5) / side for side in (height, width))
        points.append(torch.cartesian_prod(y, x).flip(1))
    return torch.cat(points)[None, :, None]


class Injector(Attend):
    """Adds features of the adapter's maps to the tokens of the trunk, with a factor per channel."""

    def __init__(self, dim: int, num_heads: int, num_points: int, init_value: float):
        super().__init__(dim, num_heads, num_points, LEVELS)
        self.gamma = nn.Parameter(init_value * torch.ones(dim))

    def forward(self, x: Tensor, grid: Grid, maps: Tensor, grids: list[Grid]) -> Tensor:
        return x + self.gamma * self.attend(x, [grid], maps, grids)


class Extractor(Attend):
    """Adds features of the trunk to the adapter's maps, then applies a feed-forward layer with a convolution."""

    def __init__(self, dim: int, num_heads: int, num_points: int, ratio: float, drop_path: float):
        super().__init__(dim, num_heads, num_points, 1)
        self.ffn, self.ffn_norm = ConvFFN(dim, int(ratio * dim)), nn.LayerNorm(dim, eps=1e-6)
        self.drop_path = DropPath(drop_path)

    def forward(self, maps: Tensor, grids: list[Grid], x: Tensor, grid: Grid) -> Tensor:
        maps = maps + self.attend(maps, grids, x, [grid])
        return maps + self.drop_path(self.ffn(self.ffn_norm(maps), grids))


class ConvFFN(nn.Module):
    """Two linear layers with a 3x3 depthwise convolution of every map and GELU between them."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.dwconv = nn.ModuleDict({'dwconv': nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)})

    def forward(self, x: Tensor, grids: list[Grid]) -> Tensor:
        convolved = (to_tokens(self.dwconv['dwconv'](level)) for level in to_maps(self.fc1(x), grids))
        return self.fc2(F.gelu(torch.cat(list(convolved), dim=1)))


class Interaction(nn.Module):
    """Injector before a group of blocks, extractors after it."""

    def __init__(
        self, dim: int, num_heads: int, num_points: int, ratio: float, drop_path: float, init_value: float, extra: bool
    ):
        super().__init__()
        self.injector = Injector(dim, num_heads, num_points, init_value)
        self.extractor = Extractor(dim, num_heads, num_points, ratio, drop_path)
        if extra:
            self.extra_extractors = nn.Sequential(
                *(Extractor(dim, num_heads, num_points, ratio, drop_path) for _ in range(NUM_EXTRA))
            )

    def extractors(self) -> list[Extractor]:
        return [self.extractor, *getattr(self, 'extra_extractors', ())]


def to_tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)  # [B, C, H, W] -> [B, H*W, C]


def to_maps(x: Tensor, grids: list[Grid]) -> list[Tensor]:
    """Tokens of several maps [B, L, C] -> those maps [B, C, h, w]."""
    parts = x.transpose(1, 2).split([height * width for height, width in grids], dim=2)
    return [part.unflatten(2, grid) for part, grid in zip(parts, grids)]


class TrunkOptions(TypedDict, total=False):
    """The keyword arguments of :class:`PlainMamba`, except those of its maps."""

    arch: str | dict | None
    img_size: int | tuple[int, int]
    selection: str
    step_bias: str
    drop_path_rate: float
    frozen_stages: int
    with_cp: bool
    init_cfg: dict | list[dict] | None


@MODELS.register_module()
class PlainMambaAdapter(PlainMamba):
    """PlainMamba with an adapter, returning maps of strides 4, 8, 16 and 32, all as wide as the trunk.

    Args:
        num_groups (int): number of groups of blocks. An injector runs before each group, an extractor after it.
        num_heads (int), num_points (int): heads of the deformable attention, and places per map that a head attends to.
        conv_width (int): channels of the first convolutions of the adapter.
        ffn_ratio (float): ratio of the hidden channels of the extractors' feed-forward layers to the trunk's channels.
        init_value (float): initial value of the injectors' factors. With 0 the trunk computes the same as without
            adapter.
        frozen_stages (int): 0 freezes the trunk's patches and position table, n also its first n blocks. The adapter is
            never frozen.
        norm_cfg (dict): batch norm of the convolutions and of the returned maps. ``SyncBN`` also applies to the trunk.

    The other arguments are those of :class:`PlainMamba`, but for ``out_indices`` and ``out_feature``: see
    :class:`TrunkOptions`.

    Raises:
        InputError: the number of blocks is not a multiple of the groups, or the width not one of the heads.
    """

    allowed_missing = ('spm.', 'interactions.', 'level_embed', 'up.', 'ad_norm')

    def __init__(
        self,
        *,
        num_groups: int = 4,
        num_heads: int = 6,
        num_points: int = 4,
        conv_width: int = 64,
        ffn_ratio: float = 0.25,
        init_value: float = 0.0,
        norm_cfg: dict = BATCH_NORM,
        **run: Unpack[TrunkOptions],
    ):
        depth = self.resolve_arch(run.get('arch')).depth
        super().__init__(out_indices=(depth - 1,), norm_cfg=None, **run)
        dim, drop_path_rate = self.arch.embed_dims, self.drop_path_rate
        if num_groups < 1 or depth % num_groups:
            raise InputError(f'PlainMambaAdapter: num_groups={num_groups}, expected a divisor of the {depth} blocks')
        if num_heads < 1 or dim % num_heads:
            raise InputError(f'PlainMambaAdapter: num_heads={num_heads}, expected a divisor of the width {dim}')
        self.group_size = depth // num_groups
        self.level_embed = nn.Parameter(torch.randn(LEVELS, dim))
        self.spm = SpatialPrior(dim, conv_width, norm_cfg)
        self.interactions = nn.ModuleList(
            Interaction(dim, num_heads, num_points, ffn_ratio, drop_path_rate, init_value, group == num_groups - 1)
            for group in range(num_groups)
        )
        self.up = nn.ConvTranspose2d(dim, dim, 2, 2)
        self.out_channels, self.out_strides = (dim,) * 4, (4, 8, 16, 32)
        for i in range(4):
            self.add_module(f'ad_norm{i + 1}', build_norm_layer(norm_cfg, dim)[1])
        if norm_cfg['type'] == 'SyncBN':
            nn.SyncBatchNorm.convert_sync_batchnorm(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image [B, 3, H, W], any size from one patch -> maps [B, C, ceil(H/s), ceil(W/s)] of strides 4, 8, 16, 32."""
        self.check_image(x, smallest=self.patch_embed.patch_size)
        finest, *maps = self.spm(x)
        grids = [tuple(level.shape[-2:]) for level in maps]
        maps = torch.cat([to_tokens(level) + code for level, code in zip(maps, self.level_embed)], dim=1)
        x = self.patch_embed(x)
        grid = tuple(x.shape[-2:])
        x = self._add_position(to_tokens(x), grid)
        for group, interaction in enumerate(self.interactions):
            x = self.checkpointed(interaction.injector, x, grid, maps, grids)
            for layer in self.layers[group * self.group_size : (group + 1) * self.group_size]:
                x, _ = self.checkpointed(layer, x, grid)
            for extractor in interaction.extractors():
                maps = self.checkpointed(extractor, maps, grids, x, grid)
        maps = to_maps(maps, grids)
        height, width = finest.shape[-2:]
        finest = finest + self.up(maps[0])[:, :, :height, :width]
        x = x.transpose(1, 2).unflatten(2, grid)  # [B, L, C] -> [B, C, h, w]
        outs = []
        for i, level in enumerate((finest, *maps)):
            resized = F.interpolate(x, level.shape[-2:], mode='bilinear', align_corners=False)
            outs.append(getattr(self, f'ad_norm{i + 1}')(level + resized).contiguous())
        return tuple(outs)

    def no_weight_decay(self) -> set[str]:
        return super().no_weight_decay() | {'level_embed'}
