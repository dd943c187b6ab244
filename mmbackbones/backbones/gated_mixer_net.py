"""GatedMixerNet: MambaOut with other token mixers, to compare mixers while all else stays equal.

MambaOut (https://arxiv.org/abs/2405.07992, timm's implementation) is the Mamba block without its state-space model.
``mixer(c) = conv(c) + gate * branch(conv(c))`` replaces its depthwise convolution in place, with one gate per channel
that starts at zero. Every arm therefore starts as MambaOut. MambaOut's ImageNet weights fit, so no arm needs a new
ImageNet training. Arms of one seed draw the same random numbers, also for the heads built after them.

:func:`mmbackbones.layers.token_mixers.build_branch` makes the branches. The convolutions see later tokens, so a causal
branch does not make the network causal. :class:`IsotropicMixerNet` with a causal branch is causal.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from mmbackbones.backbones.base import STRIDES, RunOptions
from mmbackbones.backbones.mambaout import MambaOut
from mmbackbones.errors import InputError
from mmbackbones.layers.arms import ARMS, MATCHED, MATCHED_SIDE, spell_out
from mmbackbones.layers.meta_device import shapes_alone
from mmbackbones.layers.mixer_names import BRANCHES
from mmbackbones.layers.token_mixers import branch_macs, branch_parameters, build_branch, names_in_turn
from mmbackbones.registry import MODELS

MIXERS = (*BRANCHES, 'identity')


@MODELS.register_module()
class GatedMixerNet(MambaOut):
    """MambaOut with another token mixer beside its convolutions.

    Args:
        mixers (str | Sequence[str | Sequence[str]]): one name for all blocks, or one entry per stage: a name, or names
            that alternate over the stage's blocks. ``'none'`` keeps MambaOut's convolution, ``'identity'`` removes it,
            the other names are branches, see :func:`build_branch`. Or the name of an arm, such as ``'ss2d-last2'``,
            see :data:`mmbackbones.layers.arms.ARMS`.
        d_state (int), dt_rank (int | None), head_width (int | None): see :func:`build_branch`.
        equal (str | None): None keeps MambaOut's widths, so that its weights fit. ``'params'`` and ``'macs'`` are for
            training from scratch: they change the expansion ratio of all blocks so that the whole backbone has as many
            parameters, or multiply-accumulates at 224x224 px, as MambaOut.

    The other arguments are :class:`MambaOut`'s.

    Raises:
        InputError: a mixer list that does not fit the stages, an unknown mixer, an ``equal`` that no expansion ratio
            gives, and the errors of :class:`MambaOut`.
    """

    def __init__(
        self,
        *,
        mixers: str | Sequence[str | Sequence[str]] = 'none',
        d_state: int = 16,
        dt_rank: int | None = None,
        head_width: int | None = None,
        equal: str | None = None,
        **run: Unpack[RunOptions],
    ):
        options = dict(d_state=d_state, dt_rank=dt_rank, head_width=head_width)
        if equal is not None:
            run['arch'] = _matched_arch(run.get('arch') or self.default_arch, mixers, equal, options)
        super().__init__(**run)
        self.mixers = resolve_mixers(mixers, self.depths)
        # A branch of its own must not change what is drawn after it: heads, stochastic depth, data.
        with torch.random.fork_rng(devices=[]):
            for i, (stage, names) in enumerate(zip(self.stages, self.mixers)):
                for j, (block, name) in enumerate(zip(stage.blocks, names)):
                    self._replace_conv(block, name, f'stages.{i}.blocks.{j}.conv.', options)

    def _replace_conv(self, block: nn.Module, name: str, prefix: str, options: dict) -> None:
        if name == 'identity':
            block.conv = nn.Identity()
            self.allowed_unexpected = (*self.allowed_unexpected, prefix)
        elif name != 'none':
            block.conv = MixedConv(block.conv, build_branch(name, block.conv.out_channels, **options))
            self.allowed_missing = (*self.allowed_missing, f'{prefix}gate', f'{prefix}branch.')

    def no_weight_decay(self) -> set[str]:
        """The gates too, which must be free to leave zero."""
        return super().no_weight_decay() | {name for name, _ in self.named_parameters() if name.endswith('.gate')}


class MixedConv(nn.Conv2d):
    """``conv(c) + gate * branch(conv(c))``; the convolution's parameters keep their names."""

    def __init__(self, conv: nn.Conv2d, branch: nn.Module):
        super().__init__(
            conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding, groups=conv.groups
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.gate = nn.Parameter(torch.zeros(conv.out_channels))
        self.branch = branch

    def forward(self, c: Tensor) -> Tensor:
        c = super().forward(c)
        mixed = self.gate * self.branch(c.permute(0, 2, 3, 1))  # [B, C, H, W] -> [B, H, W, C]
        return c + mixed.permute(0, 3, 1, 2).to(c.dtype)


class MixerCost(NamedTuple):
    """Cost of a mixer beyond MambaOut's convolution; negative for ``identity``."""

    params: int
    macs: int


def mixer_cost(name: str, dim: int, height: int, width: int, kernel_size: int = 7, **options) -> MixerCost:
    """Parameters and multiply-accumulates that a mixer adds to one block.

    Args:
        name (str): one of ``MIXERS``.
        dim (int): channels that are mixed.
        height (int), width (int): tokens.
        kernel_size (int): kernel size of the convolution, which ``identity`` removes.
        options: options of :func:`build_branch`.
    """
    if name == 'none':
        return MixerCost(0, 0)
    if name == 'identity':
        return MixerCost(-dim * (kernel_size**2 + 1), -dim * kernel_size**2 * height * width)
    return MixerCost(branch_parameters(name, dim, **options) + dim, branch_macs(name, dim, height, width, **options))


def resolve_mixers(mixers: str | Sequence[str | Sequence[str]], depths: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    """One name per block, by stage. An arm's name is replaced by its mixers.

    Raises:
        InputError: the list does not fit the stages or blocks, or has a name that is not in ``MIXERS``.
    """
    mixers = spell_out('GatedMixerNet', mixers, depths)
    if isinstance(mixers, str) and mixers not in MIXERS:
        known = ', '.join((*MIXERS, *ARMS['GatedMixerNet']))
        raise InputError(f'GatedMixerNet: mixers={mixers!r} unknown; known: {known}')
    entries = [mixers] * len(depths) if isinstance(mixers, str) else mixers
    if not isinstance(entries, list | tuple) or len(entries) != len(depths):
        raise InputError(f'GatedMixerNet: mixers={mixers!r}, expected one name or {len(depths)} entries, one per stage')
    return tuple(
        names_in_turn(f'GatedMixerNet: mixers of stage {i}', entry, depth, MIXERS)
        for i, (entry, depth) in enumerate(zip(entries, depths), start=1)
    )


def _matched_arch(arch: str | dict, mixers: str | Sequence, equal: str, options: dict) -> dict:
    """The architecture with the expansion ratio that makes up for what the mixers cost."""
    if equal not in MixerCost._fields:
        raise InputError(f'GatedMixerNet: equal={equal!r}, expected one of {", ".join(MixerCost._fields)}, or None')
    if isinstance(arch, str) and arch not in MATCHED:
        raise InputError(f'GatedMixerNet: equal={equal!r} is for arch {", ".join(MATCHED)}, or a dict, not {arch!r}')
    with shapes_alone():
        stages = MambaOut(arch=arch, norm_cfg=None).stages
    stages = [stage.blocks for stage in stages]
    cost, cost_per_ratio = 0, 0
    for stride, blocks, names in zip(STRIDES, stages, resolve_mixers(mixers, [len(blocks) for blocks in stages])):
        side = MATCHED_SIDE // stride
        for block, name in zip(blocks, names):
            dim = block.fc2.out_features
            mixed = mixer_cost(name, block.conv.in_channels, side, side, block.conv.kernel_size[0], **options)
            cost += getattr(mixed, equal)
            # A hidden channel: two rows of fc1 with their biases, one column of fc2.
            cost_per_ratio += dim * (3 * dim + 2 if equal == 'params' else 3 * dim * side**2)
    first = stages[0][0]
    ratio = first.fc2.in_features / first.fc2.out_features - cost / cost_per_ratio
    if any(int(ratio * blocks[0].fc2.out_features) < blocks[0].conv.in_channels for blocks in stages):
        raise InputError(
            f'GatedMixerNet: mixers={mixers!r} cost more than the blocks can give up for equal={equal!r}; '
            'expected cheaper mixers or fewer stages with them'
        )
    widths = dict(
        depths=tuple(len(blocks) for blocks in stages), dims=tuple(blocks[0].fc2.out_features for blocks in stages)
    )
    return {**(arch if isinstance(arch, dict) else widths), 'expansion_ratio': ratio}
