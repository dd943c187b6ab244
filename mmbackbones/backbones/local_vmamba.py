"""LocalVMamba: VMamba with scan orders that a search chose for each block, some of them over windows.

Paper: "LocalMamba: Visual State Space Model with Windowed Selective Scan", ECCV 2024 workshops,
https://arxiv.org/abs/2403.09338
Authors' code and weights: https://github.com/hunto/LocalMamba (Apache-2.0). Written anew from the paper and from
recorded activations of that code; parameters have its names, except the gate.

The published code inverts column-major sequences with height and width exchanged, which misplaces tokens on maps that
are not square. ``scan_inverse='official'`` reproduces this, ``'exact'`` is the correct inverse.
"""

from types import SimpleNamespace

import torch.nn.functional as F
from timm.layers import DropPath
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn
from typing_extensions import Unpack

from mmbackbones.backbones.base import NUMERICS, RunOptions, StagedBackbone
from mmbackbones.checkpoints.adapters.local_vmamba import convert_local_vmamba
from mmbackbones.layers.channel_gate import ChannelGate
from mmbackbones.layers.local_scan import resolve_directions
from mmbackbones.layers.ss2d import SS2D, in_float32
from mmbackbones.layers.stems import patch_stem
from mmbackbones.ops.scan_orders import localmamba_displacement, permute_tokens, scan_order
from mmbackbones.registry import MODELS

# Four orders per block, one stage below the other; see mmbackbones.ops.scan_orders for their names.
TINY_DIRECTIONS = (
    'h h_flip w7 w7_flip',
    'h_flip v_flip w2 w2_flip',
    'h_flip v_flip w2_flip w7',
    'h_flip v v_flip w2',
    'h h_flip v_flip w2_flip',
    'h_flip v_flip w2 w2_flip',
    'h w2_flip w7 w7_flip',
    'h h_flip v v_flip',
    'h v_flip w7 w7_flip',
    'h_flip v w2 w7_flip',
    'v v_flip w2 w7_flip',
    'h h_flip v_flip w2_flip',
    'v_flip w2_flip w7 w7_flip',
    'h_flip v_flip w2_flip w7_flip',
    'h_flip v w7 w7_flip',
)
SMALL_DIRECTIONS = (
    'h v v_flip w7_flip',
    'h h_flip v w7',
    'h_flip v v_flip w7',
    'h_flip v w2_flip w7',
    'h_flip v w2_flip w7',
    'h_flip v_flip w2 w7_flip',
    'h_flip v v_flip w7',
    'h v v_flip w7',
    'h v v_flip w7',
    'h v v_flip w7_flip',
    'h h_flip v v_flip',
    'h v v_flip w2',
    'v v_flip w2_flip w7',
    'h h_flip v w2',
    'h_flip v v_flip w7_flip',
    'h h_flip v v_flip',
    'h v v_flip w7_flip',
    'h v v_flip w7_flip',
    'h h_flip v_flip w7',
    'h_flip v_flip w2_flip w7',
    'h_flip v v_flip w7_flip',
    'v v_flip w7 w7_flip',
    'h v v_flip w7_flip',
    'h_flip v v_flip w2',
    'h v v_flip w2_flip',
    'h h_flip v w7',
    'h h_flip w7 w7_flip',
    'h v_flip w2 w2_flip',
    'h v_flip w2 w7',
    'h v v_flip w7_flip',
    'h_flip v w2_flip w7',
    'h_flip v_flip w7 w7_flip',
    'h v w7 w7_flip',
)


class LocalSS2D(SS2D):
    """SS2D in four orders of one's choice; each direction's result passes one shared channel gate before the sum.

    Padding slots of windows hold zeros and are scanned: they let the state decay.
    """

    def __init__(self, dim: int, *, directions: tuple[str, ...], exact: bool, **ssm):
        super().__init__(dim, conv_bias=True, gate=True, **ssm)
        self.directions, self.exact = directions, exact
        self.channel_gate = ChannelGate(self.out_norm.normalized_shape[0])

    def scan(self, x: Tensor) -> Tensor:
        """[B, D, H, W] -> [B, H*W, D]"""
        size, total = x.shape[-2:], 0
        x = x.flatten(2).transpose(1, 2)  # [B, D, H, W] -> [B, H*W, D]
        u = in_float32(x).contiguous()
        projected = F.linear(x, self.x_proj_weight.flatten(0, 1)).unflatten(-1, self.x_proj_weight.shape[:2])
        for k, (direction, mine) in enumerate(zip(self.directions, projected.unbind(2))):
            name = direction.removesuffix('_flip')
            order = scan_order(name, *size, x.device).order
            y = self.scan_tokens(u, mine, k, order, reverse=name != direction)  # [B, H*W, D]
            displacement = localmamba_displacement(name, *size, x.device, exact=self.exact)
            if displacement is not None:
                y = permute_tokens(y, displacement)
            total = total + self.channel_gate(y)
        return total


class LocalBlock(nn.Module):
    """``x + LocalSS2D(LN(x))`` on maps [B, H, W, C]."""

    def __init__(self, dim: int, mixer: LocalSS2D, drop_path: float):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.op = mixer
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.op(self.norm(x)))


@MODELS.register_module()
class LocalVMamba(StagedBackbone):
    """LocalVMamba for detection and segmentation.

    Keys of ``arch`` besides ``dims`` and ``depths``: ``directions`` (a string of four names of scan orders, such as
    ``'h v_flip w2 w7_flip'``, or one per block) and ``d_state`` (16).

    Args:
        scan_inverse (str): ``'official'``, as in the published results, or ``'exact'``. They differ on maps that are
            not square.

    The other arguments are those of :class:`Backbone`.
    """

    archs = {
        'tiny': dict(dims=96, depths=(2, 2, 9, 2), directions=TINY_DIRECTIONS),
        'small': dict(dims=96, depths=(2, 2, 27, 2), directions=SMALL_DIRECTIONS),
    }
    arch_defaults = dict(d_state=16, directions=None)
    convert_state_dict = staticmethod(convert_local_vmamba)

    def __init__(self, *, scan_inverse: str = 'official', **run: Unpack[RunOptions]):
        self.check_choice(NUMERICS, scan_inverse=scan_inverse)
        self.scan_inverse = scan_inverse
        super().__init__(**run)

    @classmethod
    def resolve_arch(cls, arch: str | dict | None) -> SimpleNamespace:
        options = super().resolve_arch(arch)
        options.directions = resolve_directions(cls.__name__, options.directions, sum(options.depths))
        return options

    def make_stem(self, dim: int) -> nn.Module:
        return patch_stem(dim)

    def make_block(self, stage: int, index: int, dim: int, drop_path: float) -> LocalBlock:
        directions = self.arch.directions[sum(self.depths[:stage]) + index]
        mixer = LocalSS2D(dim, directions=directions, exact=self.scan_inverse == 'exact', d_state=self.arch.d_state)
        return LocalBlock(dim, mixer, drop_path)

    def make_downsample(self, dim: int, next_dim: int) -> nn.Module:
        return PatchMerging(dim, next_dim)
