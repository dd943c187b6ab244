"""LocalVim: Vim with four scan orders per block that a search chose, some of them over windows.

Paper: "LocalMamba: Visual State Space Model with Windowed Selective Scan", ECCV 2024 workshops,
https://arxiv.org/abs/2403.09338
Authors' code and weights: https://github.com/hunto/LocalMamba (Apache-2.0). Written anew from the paper and from
recorded activations of that code; parameters have its names, except the gate and the state matrices.

The numerics are the authors'. These points are options here or differ:

* ``scan_inverse``: their code inverts column-major sequences with height and width exchanged, which misplaces tokens on
  maps that are not square. ``'official'`` reproduces this, ``'exact'`` is the correct inverse;
* ``block_norm``: the weights were trained with RMSNorm before each mixer, but their dense configs have LayerNorm;
* ``small_uniform`` and ``small_searched``: their file defines the small model twice. The effective definition has the
  same four orders in all blocks. The other one has the searched orders of tiny, which their dense configs name. The
  weights fit both;
* the variant with a class token takes any image size here.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from mmbackbones.backbones.base import NUMERICS, MapBlock, PlainBackbone, PlainRunOptions
from mmbackbones.checkpoints.adapters.localvim import convert_localvim
from mmbackbones.layers.channel_gate import ChannelGate
from mmbackbones.layers.local_scan import NUM_ORDERS, local_orders, resolve_directions
from mmbackbones.layers.mamba import MambaMixer, project_channels_first
from mmbackbones.layers.position import resize_position
from mmbackbones.ops.scan_orders import to_map, to_sequence
from mmbackbones.registry import MODELS

# Four orders per block; see mmbackbones.ops.scan_orders for their names.
SEARCHED = (
    'h v_flip w7 w7_flip',
    'h_flip w2_flip w7 w7_flip',
    'h h_flip v w7',
    'h h_flip v v_flip',
    'h h_flip v v_flip',
    'h h_flip v v_flip',
    'h_flip v v_flip w7',
    'h_flip v v_flip w2_flip',
    'h h_flip v v_flip',
    'h h_flip v v_flip',
    'h v v_flip w2',
    'h v v_flip w2_flip',
    'h h_flip v_flip w7',
    'h_flip v v_flip w2',
    'h h_flip v v_flip',
    'h v w2 w2_flip',
    'v v_flip w2 w7',
    'h h_flip v w2',
    'h h_flip w2_flip w7',
    'v v_flip w2 w2_flip',
)
BLOCK_NORMS = {'rms': nn.RMSNorm, 'layer': nn.LayerNorm}


class LocalMambaMixer(MambaMixer):
    """The Mamba mixer in four orders, each with its own convolution, projections, A and D.

    Tokens and gate are put in order together, each result passes one shared channel gate, and the four are summed.
    Padding slots of windows are scanned: convolution and state run through them.
    """

    def __init__(self, dim: int, *, directions: tuple[str, ...], exact: bool, middle_token: bool, **mixer):
        super().__init__(dim, **mixer)
        self.directions, self.exact, self.middle_token = directions, exact, middle_token
        self.channel_gate = ChannelGate(self.d_inner)

    def _add_branches(self, d_conv: int, conv_bias: bool) -> None:
        for k in range(NUM_ORDERS):
            self._add_branch(f'_{k}', d_conv, conv_bias)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens [B, L, C] of a grid -> [B, L, C]."""
        x, z = project_channels_first(self.in_proj, x).chunk(2, dim=1)  # [B, L, C] -> 2 x [B, D, L]
        total = 0
        for k, direction in enumerate(self.directions):
            order, back = local_orders(direction, grid, x.device, self.exact, self.middle_token)
            slots, gate = (to_sequence(s, order).transpose(1, 2) for s in (x, z))  # [B, D, L] -> [B, S, D]
            y = self.scan(slots, gate, [f'_{k}'], [direction.endswith('_flip')])
            total = total + self.channel_gate(to_map(y.transpose(1, 2), back).transpose(1, 2))  # [B, S, D] -> [B, L, D]
        return self.out_proj(total)


@MODELS.register_module()
class LocalVim(PlainBackbone):
    """LocalVim for detection and segmentation.

    Keys of ``arch`` besides those of :class:`PlainBackbone`: ``directions`` (a string of four names of scan orders,
    such as ``'h v_flip w2 w7_flip'``, or one per block) and ``cls_token`` (a class token in the middle of the sequence
    instead of the rotary position code; False).

    Args:
        scan_inverse (str): ``'official'``, as in the published results, or ``'exact'``. They differ on maps that are
            not square.
        block_norm (str): norm before each mixer, ``'rms'`` as in the released weights, or ``'layer'`` as in the
            authors' dense configs, whose biases a released checkpoint then lacks.

    The other arguments are those of :class:`PlainBackbone`; the map of a block is its mixer's output, as in the
    authors' dense code, unless ``out_feature='residual'``.
    """

    archs = {
        'tiny': dict(embed_dims=192, depth=20, directions=SEARCHED),
        'tiny_middle_cls_token': dict(embed_dims=192, depth=20, directions=SEARCHED, cls_token=True),
        'small_uniform': dict(embed_dims=384, depth=20, directions='h h_flip w2 w2_flip'),
        'small_searched': dict(embed_dims=384, depth=20, directions=SEARCHED),
    }
    arch_defaults = dict(PlainBackbone.arch_defaults, directions=None, cls_token=False)
    default_out_indices = (4, 9, 14, 19)
    default_out_feature = 'mixer'
    norm_eps = 1e-5
    convert_state_dict = staticmethod(convert_localvim)

    def __init__(
        self,
        *,
        scan_inverse: str = 'official',
        block_norm: str = 'rms',
        **run: Unpack[PlainRunOptions],
    ):
        self.check_choice(NUMERICS, scan_inverse=scan_inverse)
        self.check_choice(BLOCK_NORMS, block_norm=block_norm)
        self.scan_inverse, self.block_norm = scan_inverse, block_norm
        self.with_cls_token = self.resolve_arch(run.get('arch')).cls_token
        self.rope = not self.with_cls_token
        super().__init__(**run)
        if block_norm == 'layer':
            self.allowed_missing = (*self.allowed_missing, *(f'layers.{i}.norm.bias' for i in range(len(self.layers))))
        self.rotary_grid = self.grid
        if self.rope:
            self.register_buffer('rope_grid', torch.tensor(self.grid))

    @classmethod
    def resolve_arch(cls, arch: str | dict | None) -> SimpleNamespace:
        options = super().resolve_arch(arch)
        options.directions = resolve_directions(cls.__name__, options.directions, options.depth)
        return options

    def make_block(self, index: int, dim: int, drop_path: float) -> MapBlock:
        mixer = LocalMambaMixer(
            dim,
            directions=self.arch.directions[index],
            exact=self.scan_inverse == 'exact',
            middle_token=self.with_cls_token,
            **self.mamba_options,
        )
        return MapBlock(dim, mixer, drop_path, BLOCK_NORMS[self.block_norm])

    def rotation(self, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        """The authors resize the tables of the grid in training as they do the position table; so do we."""
        tables = super().rotation(self.rotary_grid, device)
        return tuple(resize_position(table[None], self.rotary_grid, grid)[0] for table in tables)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.rope and f'{prefix}rope_grid' in state_dict:
            self.rotary_grid = tuple(state_dict[f'{prefix}rope_grid'].tolist())
