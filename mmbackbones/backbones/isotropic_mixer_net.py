"""IsotropicMixerNet: patches, then equal gated blocks in which only the token mixer sees other tokens.

Figure 3 of the MambaOut paper (https://arxiv.org/abs/2405.07992) asks whether causal mixing harms understanding. The
convolutions of the hierarchical nets see later tokens, so the question needs a net without convolutions. The block is
MambaOut's, with a branch of :mod:`mmbackbones.layers.token_mixers` in place of its convolution. The trunk is that of
:class:`PlainBackbone`. Norms, gates and projections are per token, so a causal branch makes the whole network causal.

No weights are published.
"""

from collections.abc import Sequence
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from mmbackbones.backbones.base import MapBlock, PlainBackbone, PlainRunOptions
from mmbackbones.errors import InputError
from mmbackbones.layers.arms import spell_out
from mmbackbones.layers.mixer_names import BRANCHES
from mmbackbones.layers.token_mixers import build_branch, names_in_turn
from mmbackbones.registry import MODELS


class GatedMixing(nn.Module):
    """``out_proj(gelu(g) * cat(i, branch(c)))`` with ``g, i, c = in_proj(x)``, as MambaOut splits its hidden width."""

    def __init__(self, dim: int, branch: nn.Module, expansion_ratio: float):
        super().__init__()
        hidden = int(expansion_ratio * dim)
        self.split = hidden, hidden - dim, dim
        self.in_proj = nn.Linear(dim, 2 * hidden)
        self.branch = branch
        self.out_proj = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens [B, L, C] of a map -> [B, L, C]."""
        g, i, c = self.in_proj(x).split(self.split, dim=-1)
        c = self.branch(c.unflatten(1, grid)).flatten(1, 2)  # [B, L, C] -> [B, H, W, C] -> [B, L, C]
        return self.out_proj(F.gelu(g) * torch.cat((i, c.to(i.dtype)), dim=-1))


@MODELS.register_module()
class IsotropicMixerNet(PlainBackbone):
    """Convolution-free plain backbone, apart from its patches, with any token mixer.

    Keys of ``arch`` besides ``embed_dims`` and ``depth``: ``patch_size`` (16 px), ``stride`` (px, None: the patch size)
    and ``expansion_ratio`` (hidden width of a block over its width, 8/3 as in MambaOut).

    Args:
        mixers (str | Sequence[str]): the branch of all blocks, or branches that alternate, see :func:`build_branch`.
            Or the name of an arm, such as ``'pointwise-attn'``, see :data:`mmbackbones.layers.arms.ARMS`.
        d_state (int), dt_rank (int | None), head_width (int | None): see :func:`build_branch`.
        position (bool): a learned position table, the same for all mixers. Without it full attention has no position
            information, while causal attention and scans have some. A comparison would then also compare this.

    The other arguments are those of :class:`PlainBackbone`.
    """

    archs = {  # width and depth as in Vim
        'tiny': dict(embed_dims=192, depth=24),
        'small': dict(embed_dims=384, depth=24),
    }
    arch_defaults = dict(patch_size=16, stride=None, expansion_ratio=8 / 3)

    def __init__(
        self,
        *,
        mixers: str | Sequence[str] = 'attn',
        d_state: int = 16,
        dt_rank: int | None = None,
        head_width: int | None = None,
        position: bool = True,
        **run: Unpack[PlainRunOptions],
    ):
        depth = self.resolve_arch(run.get('arch')).depth
        mixers = spell_out('IsotropicMixerNet', mixers)
        self.mixers = names_in_turn(f'{self.family}: mixers', mixers, depth, BRANCHES)
        self.branch_options = dict(d_state=d_state, dt_rank=dt_rank, head_width=head_width)
        super().__init__(**run)
        if not position:
            zeros = torch.zeros_like(self.pos_embed)
            del self.pos_embed
            self.register_buffer('pos_embed', zeros, persistent=False)

    @classmethod
    def resolve_arch(cls, arch: str | dict | None) -> SimpleNamespace:
        options = super().resolve_arch(arch)
        if int(options.expansion_ratio * options.embed_dims) < options.embed_dims:
            raise InputError(f'{cls.__name__}: arch expansion_ratio={options.expansion_ratio}, expected 1 or more')
        return options

    def make_block(self, index: int, dim: int, drop_path: float) -> MapBlock:
        # Linear layers and patches of all arms draw the same numbers, whatever a branch draws.
        with torch.random.fork_rng(devices=[]):
            branch = build_branch(self.mixers[index], dim, **self.branch_options)
        return MapBlock(dim, GatedMixing(dim, branch, self.arch.expansion_ratio), drop_path, norm=nn.LayerNorm)
