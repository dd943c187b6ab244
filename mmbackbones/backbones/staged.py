"""What the hierarchical backbones of VMamba's kind share: a stem, then stages of channels-last blocks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmbackbones.backbones.base import Backbone, check_image, check_out_indices, recompute, resolve_arch
from mmbackbones.errors import InputError

STRIDES = (4, 8, 16, 32)


def arch_options(family: str, arch: str | dict, table: dict[str, dict], defaults: dict) -> dict:
    """A named architecture, or a dict of ``dims``, ``depths`` and options, completed by ``defaults``.

    ``dims`` may be the first stage's width alone, which doubles per stage.

    Raises:
        InputError: unknown name, unknown or missing key, or not four stages.
    """
    options = resolve_arch(family, arch, table)
    known = ('dims', 'depths', *defaults)
    if unknown := [key for key in options if key not in known]:
        raise InputError(f'{family}: arch has unknown keys {", ".join(map(repr, unknown))}; known: {", ".join(known)}')
    if missing := [key for key in ('dims', 'depths') if key not in options]:
        raise InputError(f'{family}: arch lacks {" and ".join(map(repr, missing))}')
    options = {**defaults, **options}
    if isinstance(options['dims'], int):
        options['dims'] = tuple(options['dims'] * 2**stage for stage in range(len(STRIDES)))
    for key in ('dims', 'depths'):
        if len(options[key]) != len(STRIDES) or min(options[key]) < 1:
            raise InputError(f'{family}: arch {key}={options[key]}, expected {len(STRIDES)} positive numbers')
    return options


class Stage(nn.Module):
    """Blocks at one resolution and what leads to the next one."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample


class StagedBackbone(Backbone):
    """Four stages at strides 4 to 32, with a norm on each returned map, taken before the downsampling.

    A subclass hands over the parts, all channels-last: ``stem`` [B, 3, H, W] -> [B, H/4, W/4, dims[0]], ``block(stage,
    index in the stage, dim, drop_path)`` and ``downsample(dim, next_dim)``, which make modules. Stages past the last
    returned one are not built. The remaining arguments are those of the subclasses.

    Raises:
        InputError: ``out_indices`` are not ascending stages.
    """

    unused_keys = ('classifier.',)

    def __init__(
        self,
        *,
        stem: nn.Module,
        block: Callable[[int, int, int, float], nn.Module],
        downsample: Callable[[int, int], nn.Module],
        dims: tuple[int, ...],
        depths: tuple[int, ...],
        out_indices: tuple[int, ...],
        drop_path_rate: float,
        frozen_stages: int,
        with_cp: bool,
        norm_cfg: dict | None,
        init_cfg: dict | list[dict] | None,
    ):
        super().__init__(frozen_stages=frozen_stages, init_cfg=init_cfg)
        family = type(self).__name__
        if not 0 <= drop_path_rate < 1:
            raise InputError(f'{family}: drop_path_rate={drop_path_rate}, expected 0 or more and below 1')
        self.depths, self.with_cp = tuple(depths), with_cp
        self.out_indices = check_out_indices(family, out_indices, len(depths))
        self.out_channels = tuple(dims[i] for i in self.out_indices)
        self.out_strides = tuple(STRIDES[i] for i in self.out_indices)
        last = self.out_indices[-1]
        self.unused_keys = (
            *self.unused_keys,
            f'layers.{last}.downsample.',
            *(f'layers.{i}.' for i in range(last + 1, len(depths))),
        )

        drop_path = torch.linspace(0, drop_path_rate, sum(depths), device='cpu').split(list(depths))
        self.patch_embed = stem
        self.layers = nn.ModuleList(
            Stage(
                [block(i, j, dims[i], drop_path[i][j].item()) for j in range(depths[i])],
                downsample(dims[i], dims[i + 1]) if i < last else None,
            )
            for i in range(last + 1)
        )
        for module in self.modules():
            if type(module) is nn.Linear:  # a subclass knows its own initialization
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.add_out_norms(norm_cfg, self.out_indices)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image [B, 3, H, W], any size from 4 px -> one map [B, C, about H/s, about W/s] per out index."""
        check_image(type(self).__name__, x, smallest=STRIDES[0])
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
            x = recompute(block, x) if self.with_cp and self.training else block(x)
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

    def no_weight_decay(self) -> set[str]:
        """State matrices and skip weights of the scans."""
        return {name for name, _ in self.named_parameters() if name.endswith(('.A_logs', '.Ds'))}


def _residual_stream(x: Tensor) -> Tensor:
    """Autocast hands over half precision, in which the sum of all blocks would go on; float32 keeps it exact."""
    return x.float() if torch.is_autocast_enabled(x.device.type) else x
