"""PlainMamba: a plain backbone with four scans in alternating directions. B depends on the direction of the last step.

Paper: "PlainMamba: Improving Non-Hierarchical Mamba in Visual Recognition", BMVC 2024,
https://arxiv.org/abs/2403.17695. Authors' code and weights: https://github.com/ChenhongyiYang/PlainMamba (states no
licence). Written anew from the paper and from recorded activations of that code; parameters of the blocks have its
names.

Two peculiarities of the authors' code are the default, because the weights were trained with them. The tokens follow
the four orders, but ``dt``, B and C stay in raster order (``selection='official'``). The bias of ``dt`` is added twice
(``step_bias='official'``). ``'exact'`` corrects either.
"""

import math
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from mmbackbones.backbones.base import MAMBA_OPTIONS, NUMERICS, MapBlock, PlainBackbone, PlainRunOptions
from mmbackbones.checkpoints.adapters.plainmamba import convert_plainmamba
from mmbackbones.errors import InputError
from mmbackbones.layers.mamba import DtProjection, initial_A_log, project, project_channels_first
from mmbackbones.layers.windows import missing
from mmbackbones.ops.scan_orders import move_codes, scan_order, to_map, to_sequence
from mmbackbones.ops.selective_scan import selective_scan
from mmbackbones.registry import MODELS

ORDERS = ('snake_h', 'snake_h_flip', 'snake_v', 'snake_v_flip')
MOVES = 5  # none, right, left, up, down
STEM_CHANNELS = 64


class ConvStem(nn.Module):
    """Patches by overlapping convolutions: 7x7 with stride 2, some 3x3, then one that covers a patch of the rest.

    Sides are rounded up, by zeros at the bottom and the right.
    """

    def __init__(self, embed_dims: int, patch_size: int, num_convs: int):
        super().__init__()
        self.patch_size = patch_size
        width = STEM_CHANNELS
        self.stem = nn.Sequential(nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.convs = nn.Sequential(
            *(
                layer
                for _ in range(num_convs)
                for layer in (nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
            )
        )
        self.projection = nn.Conv2d(width, embed_dims, patch_size // 2, patch_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, C, ceil(H/p), ceil(W/p)]"""
        x = self.convs(self.stem(x))
        patch = self.projection.stride[0]
        return self.projection(F.pad(x, (0, missing(x.shape[3], patch), 0, missing(x.shape[2], patch))))


class PlainMambaMixer(nn.Module):
    """Convolution of the map, then four scans in snaking orders with one set of parameters, summed and gated.

    Args:
        dim (int): channels C of the tokens.
        d_state (int): state size N per channel.
        d_conv (int): side of the depthwise convolution before the scans, odd.
        expand (int): ``d_inner``, the channels D of the scans, is expand * C.
        dt_rank (int | None): rank of the projection of ``dt``. None: ceil(C / 16).
        selection (str): ``'exact'`` orders ``dt``, B and C like the tokens that they are computed from;
            ``'official'`` leaves them in raster order.
        step_bias (str): ``'exact'`` adds the bias of ``dt`` once, ``'official'`` twice.
    """

    def __init__(
        self,
        dim: int,
        *,
        d_state: int = 16,
        d_conv: int = 7,
        expand: int = 2,
        dt_rank: int | None = None,
        selection: str = 'official',
        step_bias: str = 'official',
    ):
        super().__init__()
        d_inner = expand * dim
        self.d_state, self.dt_rank = d_state, dt_rank or math.ceil(dim / 16)
        self.ordered, self.bias_count = selection == 'exact', 1 if step_bias == 'exact' else 2
        self.in_proj = nn.Linear(dim, 2 * d_inner)
        self.conv2d = nn.Conv2d(d_inner, d_inner, d_conv, padding=d_conv // 2, groups=d_inner)
        self.x_proj = nn.Linear(d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = DtProjection(self.dt_rank, d_inner)
        self.A_log = initial_A_log(d_inner, d_state)
        self.D = nn.Parameter(torch.ones(d_inner))
        self.direction_Bs = nn.Parameter(torch.empty(MOVES, d_state))
        nn.init.trunc_normal_(self.direction_Bs, std=0.02)
        self.out_proj = nn.Linear(d_inner, dim)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens [B, h*w, C] of a grid -> [B, h*w, C]."""
        x, z = project_channels_first(self.in_proj, x).chunk(2, dim=1)  # [B, L, C] -> 2 x [B, D, L]
        x = F.silu(self.conv2d(x.unflatten(2, grid))).flatten(2)  # [B, D, L] -> [B, D, h, w] and back
        dt, B, C = project(self.x_proj, x).split([self.dt_rank, self.d_state, self.d_state], dim=1)
        selected = project(self.dt_proj, dt), B, C
        total = 0
        for name in ORDERS:
            order = scan_order(name, *grid, x.device)
            delta, B, C = (to_sequence(s, order) for s in selected) if self.ordered else selected
            moves = self.direction_Bs[move_codes(name, *grid, x.device)].T  # [L, N] -> [N, L]
            y = selective_scan(
                to_sequence(x, order),
                delta,
                -torch.exp(self.A_log.float()),
                B + moves,
                C,
                self.D,
                delta_bias=self.bias_count * self.dt_proj.bias,
                delta_softplus=True,
            )
            total = total + to_map(y, order)
        return self.out_proj((total * F.silu(z)).transpose(1, 2))  # [B, D, L] -> [B, L, C]


class PlainMambaBlock(MapBlock):
    """``x + mixer(LN(x))``, in some blocks with a convolution of the sum."""

    def __init__(self, dim: int, mixer: nn.Module, drop_path: float, dwconv: bool):
        super().__init__(dim, mixer, drop_path, norm=nn.LayerNorm)
        self.dw = (
            nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False), nn.BatchNorm2d(dim), nn.GELU())
            if dwconv
            else None
        )

    def forward(self, x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        x, mixed = super().forward(x, grid)
        if self.dw is not None:
            y = self.dw(x.transpose(1, 2).unflatten(2, grid))  # [B, L, C] -> [B, C, h, w]
            x = y.flatten(2).transpose(1, 2).to(x.dtype)  # [B, C, h, w] -> [B, L, C]; autocast leaves half precision
        return x, mixed


@MODELS.register_module()
class PlainMamba(PlainBackbone):
    """PlainMamba for detection and segmentation.

    Keys of ``arch`` besides those of :class:`PlainBackbone`: ``stem_convs`` (3x3 convolutions in the stem, 1) and
    ``dwconv_blocks`` (blocks that end with a convolution, none); ``patch_size`` is even and ``d_conv`` 7.

    Args:
        selection (str), step_bias (str): ``'official'``, as in the training of the released weights, or ``'exact'``;
            see :class:`PlainMambaMixer`.

    The other arguments are those of :class:`PlainBackbone`. The norm of the last block's map is the classifier's final
    norm and is loaded from it. The norms of other maps are new.
    """

    archs = {
        'L1': dict(embed_dims=192, depth=24, stem_convs=1, dwconv_blocks=(0,)),
        'L2': dict(embed_dims=384, depth=24, stem_convs=2),
        'L3': dict(embed_dims=448, depth=36, stem_convs=2),
    }
    arch_defaults = dict(patch_size=16, stem_convs=1, dwconv_blocks=(), **{**MAMBA_OPTIONS, 'd_conv': 7})
    default_arch = 'L1'
    allowed_unexpected: tuple[str, ...] = ('head.',)
    convert_state_dict = staticmethod(convert_plainmamba)

    def __init__(self, *, selection: str = 'official', step_bias: str = 'official', **run: Unpack[PlainRunOptions]):
        self.check_choice(NUMERICS, selection=selection, step_bias=step_bias)
        self.selection, self.step_bias = selection, step_bias
        super().__init__(**run)
        if self.norm_cfg is None or self.out_indices[-1] != self.depth - 1:
            self.allowed_unexpected = (*self.allowed_unexpected, f'outnorm{self.depth - 1}.')

    @classmethod
    def resolve_arch(cls, arch: str | dict | None) -> SimpleNamespace:
        options = super().resolve_arch(arch)
        if options.patch_size < 2 or options.patch_size % 2:
            raise InputError(f'{cls.__name__}: arch patch_size={options.patch_size}, expected an even number of pixels')
        return options

    def make_stem(self) -> ConvStem:
        return ConvStem(self.arch.embed_dims, self.arch.patch_size, self.arch.stem_convs)

    def make_block(self, index: int, dim: int, drop_path: float) -> PlainMambaBlock:
        mixer = PlainMambaMixer(dim, selection=self.selection, step_bias=self.step_bias, **self.mamba_options)
        return PlainMambaBlock(dim, mixer, drop_path, dwconv=index in self.arch.dwconv_blocks)
