"""IsotropicMixerNet: patches, then equal gated blocks in which the token mixer is all that looks beyond its token.

The hierarchical nets of the comparison have convolutions that look ahead, so what the MambaOut paper asks in its
figure 3 (https://arxiv.org/abs/2405.07992: does causal mixing harm understanding?) needs a net without them. Block:
MambaOut's, its convolution replaced by a branch of :mod:`mmbackbones.layers.token_mixers`; trunk: that of
:class:`PlainBackbone`. With a causal branch the whole network is causal: norms, gates and projections are per token.

No weights are published.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbackbones.backbones.plain import MapBlock, PlainBackbone, resolve_plain_arch
from mmbackbones.errors import InputError
from mmbackbones.layers.token_mixers import BRANCHES, build_branch
from mmbackbones.registry import MODELS

ARCHS = {  # width and depth as in Vim
    'tiny': dict(embed_dims=192, depth=24),
    'small': dict(embed_dims=384, depth=24),
}
OPTIONAL = ('patch_size', 'stride', 'expansion_ratio')


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

    Args:
        arch (str | dict): ``tiny``, ``small``, or a dict, see :func:`resolve_plain_arch`, with ``expansion_ratio``
            (hidden width of a block over its width, 8/3 as in MambaOut) in place of the options of Mamba's blocks.
        mixers (str | Sequence[str]): the branch of all blocks, or branches that take turns, see :func:`build_branch`.
        d_state (int), dt_rank (int | None), head_width (int | None): see :func:`build_branch`.
        position (bool): a learned position table, the same for all mixers. Without it full attention knows no places
            while causal attention and scans do, so that a comparison without it is one of position codes as well.

    The other arguments are those of :class:`PlainBackbone`.
    """

    def __init__(
        self,
        *,
        arch: str | dict = 'tiny',
        mixers: str | Sequence[str] = 'attn',
        d_state: int = 16,
        dt_rank: int | None = None,
        head_width: int | None = None,
        position: bool = True,
        img_size: int | tuple[int, int] = 224,
        out_indices: tuple[int, ...] = (5, 11, 17, 23),
        out_feature: str = 'residual',
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        norm_cfg: dict | None = dict(type='LN', eps=1e-6),  # noqa: B006  (read only)
        init_cfg: dict | list[dict] | None = None,
    ):
        trunk, mixing = resolve_plain_arch('IsotropicMixerNet', arch, ARCHS, OPTIONAL)
        dim, ratio = trunk['embed_dims'], mixing.get('expansion_ratio', 8 / 3)
        if int(ratio * dim) < dim:
            raise InputError(f'IsotropicMixerNet: arch expansion_ratio={ratio}, expected 1 or more')
        names = [mixers] if isinstance(mixers, str) else mixers
        if not isinstance(names, list | tuple) or not 1 <= len(names) <= trunk['depth']:
            raise InputError(
                f'IsotropicMixerNet: mixers={mixers!r}, expected a name or 1 to {trunk["depth"]} names '
                f'for its {trunk["depth"]} blocks'
            )
        if unknown := [name for name in names if name not in BRANCHES]:
            raise InputError(f'IsotropicMixerNet: mixers: {unknown[0]!r} unknown; known: {", ".join(BRANCHES)}')

        def block(index: int, drop_path: float) -> MapBlock:
            # Linear layers and patches of all arms draw the same numbers, whatever a branch draws.
            with torch.random.fork_rng(devices=[]):
                branch = build_branch(
                    names[index % len(names)], dim, d_state=d_state, dt_rank=dt_rank, head_width=head_width
                )
            return MapBlock(dim, GatedMixing(dim, branch, ratio), drop_path, norm=nn.LayerNorm)

        super().__init__(
            block=block,
            **trunk,
            img_size=img_size,
            out_indices=out_indices,
            out_feature=out_feature,
            with_cls_token=False,
            rope=False,
            pad_patches=True,
            drop_path_rate=drop_path_rate,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            norm_cfg=norm_cfg,
            init_cfg=init_cfg,
        )
        if not position:
            zeros = torch.zeros_like(self.pos_embed)
            del self.pos_embed
            self.register_buffer('pos_embed', zeros, persistent=False)

    def no_weight_decay(self) -> set[str]:
        scans = {name for name, _ in self.named_parameters() if name.endswith(('.A_logs', '.Ds'))}
        return super().no_weight_decay() | scans
