"""The base class of hierarchical backbones like VMamba: a stem, then stages of channels-last blocks."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from mmbackbones.backbones.base.backbone import Backbone, RunOptions
from mmbackbones.errors import InputError

STRIDES = (4, 8, 16, 32)


class Stage(nn.Module):
    """Blocks at one resolution and the downsampling to the next one."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample


class StagedBackbone(Backbone):
    """Four stages at strides 4 to 32, with a norm on each returned map, taken before the downsampling.

    A family defines the parts, all channels-last: :meth:`make_stem`, :meth:`make_block` and :meth:`make_downsample`.
    Its ``arch`` has ``dims`` (four widths, or the first one, which doubles per stage) and ``depths`` (four numbers of
    blocks). All arguments are those of :class:`Backbone`.
    """

    arch_required = ('dims', 'depths')
    default_arch = 'tiny'
    default_out_indices = (0, 1, 2, 3)
    norm_eps = 1e-5
    allowed_unexpected: tuple[str, ...] = ('classifier.',)

    def __init__(self, **run: Unpack[RunOptions]):
        super().__init__(**run)
        dims, depths = self.arch.dims, self.arch.depths
        self.check_out_indices(len(STRIDES))
        self.depths = tuple(depths)
        self.out_channels = tuple(dims[i] for i in self.out_indices)
        self.out_strides = tuple(STRIDES[i] for i in self.out_indices)
        last = self.out_indices[-1]
        self.allowed_unexpected = (
            *self.allowed_unexpected,
            f'layers.{last}.downsample.',
            *(f'layers.{i}.' for i in range(last + 1, len(depths))),
        )

        drop_path = torch.linspace(0, self.drop_path_rate, sum(depths), device='cpu').split(list(depths))
        self.patch_embed = self.make_stem(dims[0])
        self.layers = nn.ModuleList(
            Stage(
                [self.make_block(i, j, dims[i], drop_path[i][j].item()) for j in range(depths[i])],
                self.make_downsample(dims[i], dims[i + 1]) if i < last else None,
            )
            for i in range(last + 1)
        )
        for module in self.modules():
            if type(module) is nn.Linear:  # a subclass knows its own initialization
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.add_out_norms()

    @classmethod
    def resolve_arch(cls, arch: str | dict | None) -> SimpleNamespace:
        options = super().resolve_arch(arch)
        if isinstance(options.dims, int):
            options.dims = tuple(options.dims * 2**stage for stage in range(len(STRIDES)))
        for key in ('dims', 'depths'):
            value = getattr(options, key)
            if len(value) != len(STRIDES) or min(value) < 1:
                raise InputError(f'{cls.__name__}: arch {key}={value}, expected {len(STRIDES)} positive numbers')
        return options

    def make_stem(self, dim: int) -> nn.Module:
        """[B, 3, H, W] -> [B, about H/4, about W/4, dim]"""
        raise NotImplementedError

    def make_block(self, stage: int, index: int, dim: int, drop_path: float) -> nn.Module:
        """[B, H, W, dim] -> [B, H, W, dim]; ``index`` counts within the stage, ``drop_path`` is this block's rate."""
        raise NotImplementedError

    def make_downsample(self, dim: int, next_dim: int) -> nn.Module:
        """[B, H, W, dim] -> [B, about H/2, about W/2, next_dim]"""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image [B, 3, H, W], any size from 4 px -> one map [B, C, about H/s, about W/s] per out index."""
        self.check_image(x, smallest=STRIDES[0])
        x = _residual_stream(self.patch_embed(x))  # [B, 3, H, W] -> [B, H/4, W/4, C]
        outs = []
        for i, stage in enumerate(self.layers):
            x = self.run_blocks(i, x)
            if i in self.out_indices:
                outs.append(self.apply_out_norm(i, x))
            if stage.downsample is not None:
                x = _residual_stream(stage.downsample(x))
        return tuple(outs)

    def run_blocks(self, stage: int, x: Tensor) -> Tensor:
        """The blocks of a stage on its map [B, H, W, C]."""
        for block in self.layers[stage].blocks:
            x = self.checkpointed(block, x)
        return x

    def freezable_modules(self) -> list[list[nn.Module]]:
        return [[self.patch_embed], *([stage] for stage in self.layers)]

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Layer 0 is the stem, then one layer per block; a downsampling counts with the block after it."""
        num_layers = sum(self.depths) + 2
        name = param_name.removeprefix(prefix)
        if name.startswith('patch_embed.'):
            return 0, num_layers
        if not name.startswith('layers.'):
            return num_layers - 1, num_layers
        _, stage, part, *rest = name.split('.')
        before = sum(self.depths[: int(stage)]) + (int(rest[0]) if part == 'blocks' else self.depths[int(stage)])
        return 1 + before, num_layers


def _residual_stream(x: Tensor) -> Tensor:
    """Autocast hands over half precision, in which the sum of all blocks would go on; float32 keeps it exact."""
    return x.float() if torch.is_autocast_enabled(x.device.type) else x
