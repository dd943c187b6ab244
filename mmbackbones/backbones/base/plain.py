"""The base class of plain backbones: patches, position table, residual stream, maps of one stride.

A family provides one mixer per block and, if they differ, its patches and blocks. Vim and Mamba differ only in the
mixer. The stream is float32, also under autocast. The norm before each mixer is RMSNorm by default, as in hustvl/Vim.
Parameters have the names of hustvl/Vim.
"""

import torch
import torch.nn.functional as F
from timm.layers import DropPath, apply_rot_embed, build_rotary_pos_embed
from torch import Tensor, nn
from typing_extensions import Unpack

from mmbackbones.backbones.base.backbone import OUT_TYPES, Backbone, RunOptions
from mmbackbones.errors import InputError
from mmbackbones.layers.position import resize_position

MAMBA_OPTIONS = dict(d_state=16, d_conv=4, expand=2, dt_rank=None)  # of MambaMixer
FEATURES = ('residual', 'mixer')


class PlainRunOptions(RunOptions, total=False):
    """The keyword arguments of :class:`PlainBackbone`."""

    img_size: int | tuple[int, int]
    out_feature: str | None
    out_type: str


class PatchEmbed(nn.Module):
    """Image -> patches by one convolution.

    With ``overhang`` the image is zero-padded at the bottom and the right so that every stride starts a patch:
    ceil(side / stride) patches. Without it there are only patches inside the image.
    """

    def __init__(self, embed_dims: int, patch_size: int, stride: int, overhang: bool):
        super().__init__()
        self.patch_size, self.stride, self.overhang = patch_size, stride, overhang
        self.proj = nn.Conv2d(3, embed_dims, patch_size, stride)
        fan_in = self.proj.weight[0].numel()
        nn.init.trunc_normal_(self.proj.weight, std=fan_in**-0.5)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.overhang:
            bottom, right = ((side - 1) // self.stride * self.stride + self.patch_size - side for side in x.shape[-2:])
            x = F.pad(x, (0, right, 0, bottom))
        return self.proj(x)  # [B, 3, H, W] -> [B, C, h, w]


class Block(nn.Module):
    """Residual block around one mixer of sequences."""

    def __init__(self, dim: int, mixer: nn.Module, drop_path: float, norm: type[nn.Module] = nn.RMSNorm):
        super().__init__()
        self.mixer = mixer
        self.norm = norm(dim, eps=1e-5)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Tokens [B, L, C] -> the residual stream after this block, and the output of the mixer."""
        mixed = self.mix(self.norm(x), grid)
        return x + self.drop_path(mixed), mixed

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.mixer(x)


class MapBlock(Block):
    """Residual block around a mixer that needs the rows and columns of the patches."""

    def mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.mixer(x, grid)


class PlainBackbone(Backbone):
    """Patches, position table, equal blocks, maps of one stride.

    A family defines :meth:`make_block`, and :meth:`make_stem` if its stem is not :class:`PatchEmbed`. Its ``arch`` has
    ``embed_dims`` (channels of all tokens), ``depth`` (blocks of the whole network) and ``patch_size`` (16 px).
    Families whose patches may overlap also have ``stride`` (px, None: the patch size). Families with Mamba's mixer also
    have ``d_state`` (16), ``d_conv``, ``expand`` (2) and ``dt_rank`` (None: ceil(C / 16)).

    Args:
        img_size (int | tuple[int, int]): image size (height, width) of the position table. For other sizes the table
            is resized in each forward.
        out_feature (str | None): ``'residual'`` returns the residual stream after a block, ``'mixer'`` only the output
            of the mixer. None: ``default_out_feature``.
        out_type (str): ``'map'`` returns the patches. ``'cls_token'`` returns the class token, which classifiers read,
            as a map of one pixel [B, C, 1, 1].

    The other arguments are those of :class:`Backbone`; ``frozen_stages=0`` freezes patches, position table and class
    token.

    Attributes:
        with_cls_token (bool): a class token stands in the middle of the sequence; it is not part of the maps.
        rope (bool): the residual stream is rotated before each block, see :class:`Vim`.
        pad_patches (bool): see :class:`PatchEmbed`.
    """

    arch_required = ('embed_dims', 'depth')
    arch_defaults = dict(patch_size=16, stride=None, **MAMBA_OPTIONS)
    default_arch = 'tiny'
    default_out_indices = (5, 11, 17, 23)
    default_out_feature = 'residual'
    with_cls_token = False
    rope = False
    pad_patches = True
    allowed_unexpected: tuple[str, ...] = ('head.', 'norm_f.')

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 224,
        out_feature: str | None = None,
        out_type: str = 'map',
        **run: Unpack[RunOptions],
    ):
        super().__init__(**run)
        dim, depth, patch_size = self.arch.embed_dims, self.arch.depth, self.arch.patch_size
        self.depth, self.stride = depth, getattr(self.arch, 'stride', None) or patch_size
        self.check_out_indices(depth, 'blocks')
        self.out_feature = self.default_out_feature if out_feature is None else out_feature
        self.check_choice(FEATURES, out_feature=self.out_feature)
        self.check_choice(OUT_TYPES, out_type=out_type)
        self.out_type = out_type
        if out_type == 'cls_token' and not self.with_cls_token:
            raise InputError(f"{self.family}: out_type='cls_token', but it has no class token")
        if self.rope and self.with_cls_token:
            raise InputError(f'{self.family}: rope=True has no place for a class token; set with_cls_token=False')
        built = self.out_indices[-1] + 1
        self.allowed_unexpected = (*self.allowed_unexpected, *(f'layers.{i}.' for i in range(built, depth)))

        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if min(height, width) < patch_size:
            raise InputError(f'{self.family}: img_size={img_size}, expected at least one patch, {patch_size} px')
        # The authors' count, without overhang, so that their tables fit whatever pad_patches says.
        self.grid = (height - patch_size) // self.stride + 1, (width - patch_size) // self.stride + 1
        self.patch_embed = self.make_stem()
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid[0] * self.grid[1] + self.with_cls_token, dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        # The table's shape alone would not tell 2 x 8 from 4 x 4.
        self.register_buffer('pos_grid', torch.tensor(self.grid))
        if self.with_cls_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
            nn.init.trunc_normal_(self.cls_token, std=0.02)

        self.layers = nn.ModuleList(
            self.make_block(i, dim, self.drop_path_rate * i / max(depth - 1, 1)) for i in range(built)
        )
        for layer in self.layers:
            with torch.no_grad():
                layer.mixer.out_proj.weight /= depth**0.5  # GPT-2's scaling, as in the authors' code
        self.out_channels = (dim,) * len(self.out_indices)
        self.out_strides = (self.stride,) * len(self.out_indices)
        self.add_out_norms()

    def make_stem(self) -> nn.Module:
        """[B, 3, H, W] -> [B, C, h, w]; its attribute ``patch_size`` is the smallest image's side."""
        return PatchEmbed(self.arch.embed_dims, self.arch.patch_size, self.stride, self.pad_patches)

    def make_block(self, index: int, dim: int, drop_path: float) -> Block:
        """A block of tokens [B, L, dim]; its ``mixer`` ends with a linear layer ``out_proj``."""
        raise NotImplementedError

    @property
    def mamba_options(self) -> dict:
        """Options of Mamba's mixers in ``arch``."""
        return {key: getattr(self.arch, key) for key in MAMBA_OPTIONS}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image [B, 3, H, W], any size from one patch -> one map [B, C, ceil(H/s), ceil(W/s)] per out index."""
        self.check_image(x, smallest=self.patch_embed.patch_size)
        x = self.patch_embed(x)
        grid = tuple(x.shape[-2:])
        x = self._add_position(x.flatten(2).transpose(1, 2), grid)  # [B, C, h, w] -> [B, L, C]
        if self.rope:
            turn = self.rotation(grid, x.device)
            x = apply_rot_embed(x, *turn)
        outs = []
        for i, layer in enumerate(self.layers):
            x, mixed = self.checkpointed(layer, x, grid)
            if self.rope and i + 1 < self.depth:
                x = apply_rot_embed(x, *turn)
            if i in self.out_indices:
                outs.append(self.apply_out_norm(i, self._to_map(x if self.out_feature == 'residual' else mixed, grid)))
        return tuple(outs)

    def rotation(self, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Sines and cosines [h*w, C] of the rotary position code."""
        dim = self.pos_embed.shape[-1]
        return build_rotary_pos_embed(list(grid), dim=dim, in_pixels=False, ref_feat_shape=[14, 14], device=device)

    def _add_position(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Add the class token and the position table to the patches [B, h*w, C]; the sum is float32 as the table."""
        if not self.with_cls_token:
            return x + resize_position(self.pos_embed, self.grid, grid)
        middle = x.shape[1] // 2
        table = resize_position(self.pos_embed, self.grid, grid, _middle(self.grid), middle)
        token = self.cls_token.expand(x.shape[0], -1, -1)
        return torch.cat((x[:, :middle], token, x[:, middle:]), dim=1) + table

    def _to_map(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.with_cls_token:
            middle = _middle(grid)
            if self.out_type == 'cls_token':
                return x[:, None, middle : middle + 1]  # [B, 1 + h*w, C] -> [B, 1, 1, C]
            x = torch.cat((x[:, :middle], x[:, middle + 1 :]), dim=1)
        return x.unflatten(1, grid)  # [B, h*w, C] -> [B, h, w, C]

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        """Fit the position table to this model's grid, and leave out the class token where the model has none."""
        table, grid = (state_dict.get(f'{prefix}{name}') for name in ('pos_embed', 'pos_grid'))
        if table is not None and grid is not None:
            grid = tuple(grid.tolist())
            class_row = _middle(grid) if f'{prefix}cls_token' in state_dict else None
            if not self.with_cls_token:
                state_dict.pop(f'{prefix}cls_token', None)
            new_class_row = _middle(self.grid) if self.with_cls_token and class_row is not None else None
            state_dict[f'{prefix}pos_embed'] = resize_position(table, grid, self.grid, class_row, new_class_row)
            state_dict[f'{prefix}pos_grid'] = torch.tensor(self.grid)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def freezable_modules(self) -> list[list[nn.Module]]:
        return [[self.patch_embed], *([layer] for layer in self.layers)]

    def _freeze(self) -> None:
        super()._freeze()
        if self.frozen_stages >= 0:
            self.pos_embed.requires_grad_(False)
            if self.with_cls_token:
                self.cls_token.requires_grad_(False)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Layer 0 is the patches, the position table and the class token, then one layer per block."""
        num_layers = self.depth + 2
        name = param_name.removeprefix(prefix)
        if name.startswith('layers.'):
            return 1 + int(name.split('.')[1]), num_layers
        return (0 if name.startswith(('patch_embed.', 'pos_embed', 'cls_token')) else num_layers - 1), num_layers


def _middle(grid: tuple[int, int]) -> int:
    """Index of the class token among the tokens of a grid."""
    return grid[0] * grid[1] // 2
