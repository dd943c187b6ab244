"""Token mixers that can stand in for one another: scans, attention, sums, a convolution, and controls without mixing.

Each is a branch ``LN(mixer(LN(x)))`` on channels-last maps. The norms are per token and without weights, so that input
and output have one scale whatever mixes, and a gate behind the branch means the same in every arm of a comparison.
No branch has a position code or a bias over tokens, and none but ``ss1d-state-fused`` a convolution of fixed size.

Sources: the selective scan is Mamba's (Gu & Dao 2023, https://arxiv.org/abs/2312.00752, algorithm 2) with its step,
B and C projected from the tokens and its skip weight D; the four directions are VMamba's
(https://arxiv.org/abs/2401.10166, figure 3); the fusion of the states over the map is Spatial-Mamba's
(https://arxiv.org/abs/2410.15091). ``linear-attn`` is MILA's attention and ``ssd-noncausal`` VSSD's duality, both
without what these give them besides: rotary positions, convolutions, gates. Test-time training is the gated branch of
H-ViT3 (https://arxiv.org/abs/2512.01643), without its rotation and its convolution. The long convolution is S4ND's
(:mod:`mmbackbones.layers.s4nd`), the blocks with states the Block-State Transformer's
(:mod:`mmbackbones.layers.block_state`). The experts (:mod:`mmbackbones.layers.moe`) mix no tokens.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbackbones.errors import InputError
from mmbackbones.layers.block_state import WIDEST_BLOCK, BlockStateMixer, block_state_macs
from mmbackbones.layers.linear_attention import LinearAttention
from mmbackbones.layers.meta_device import shapes_alone
from mmbackbones.layers.mixer_names import (
    ATTENTIONS,
    BLOCKWISE,
    BRANCHES,
    CONVOLUTIONS,
    EXPERTS,
    POINTWISE,
    POINTWISE_MACS,
    SCANS,
    STATE_FUSED,
    SUMS,
    TRAINED,
)
from mmbackbones.layers.moe import ExpertBranch, experts_macs
from mmbackbones.layers.noncausal_ssd import TokenSSD
from mmbackbones.layers.s4nd import S4NDMixer, s4nd_macs
from mmbackbones.layers.ss2d import DirectionalScans
from mmbackbones.layers.state_fusion import StateFusion
from mmbackbones.layers.ttt import learn_gated

CAUSAL = ('ssm', 'causal-attn')  # in raster order
DIRECTIONS = {'ssm': 1, 'ssm-reversed': 1, 'bissm': 2, 'ss2d': 4, STATE_FUSED: 1, 'block-state': 2}
WIDEST_HEAD = 32


def build_branch(
    name: str, dim: int, *, d_state: int = 16, dt_rank: int | None = None, head_width: int | None = None
) -> nn.Module:
    """A module from a map [B, H, W, C] to a map of the same shape.

    Args:
        name (str): ``'ssm'``, causal in raster order; ``'ssm-reversed'``, its mirror image; ``'bissm'``, the sum of
            both, each with its own weights; ``'ss2d'``, rows and columns in both directions; ``'ss1d-state-fused'``,
            one scan in raster order with one state per channel, whose states are summed over the map by dilated 3x3
            kernels before they are read, so that a token sees all up to the one five rows below and five columns to
            the right of it; ``'attn'``, full attention; ``'causal-attn'``, each token sees itself and those before it
            in raster order; ``'linear-attn'``, attention with ELU + 1 in place of the softmax; ``'ssd-noncausal'``,
            one state for all tokens; ``'ttt'``, a model of a head's width learns keys and values of all tokens by a
            gradient step, then reads the queries; ``'s4nd'``, one convolution over the whole map, in both directions
            of both axes; ``'block-state'``, attention within blocks of up to 7x7 tokens, to those and to the outputs
            of ``'bissm'``'s scans at them; ``'moe'``, one of 8 MLPs on each token alone, which it chooses;
            ``'pointwise:<one of these>'``, an MLP on each token alone with as many parameters as that branch;
            ``'pointwise-macs:block-state'`` and ``'pointwise-macs:moe'``, one with as many multiply-accumulates;
            ``'none'``, the map as it is.
        dim (int): channels C.
        d_state (int): state size N of the scans except ``'ss1d-state-fused'``, of ``'block-state'`` and
            ``'ssd-noncausal'``, and of each axis of ``'s4nd'``.
        dt_rank (int | None): rank of the projection of the scans' ``dt``. None: ceil(C / 16).
        head_width (int | None): channels of a head of attention, ``'block-state'``, ``'linear-attn'``,
            ``'ssd-noncausal'`` or ``'ttt'``; None: the largest divisor of C up to 32.

    Raises:
        InputError: unknown name, a size below 1, or heads that do not divide the channels.
    """
    if name not in BRANCHES:
        raise InputError(f'token mixer {name!r} unknown; known: {", ".join(BRANCHES)}')
    for option, value in (('dim', dim), ('d_state', d_state), ('dt_rank', dt_rank), ('head_width', head_width)):
        if value is not None and value < 1:
            raise InputError(f'token mixer {name!r}: {option}={value}, expected 1 or more')
    options = dict(d_state=d_state, dt_rank=dt_rank, head_width=head_width)
    if name == 'none':
        return nn.Identity()
    if name in POINTWISE:
        return Branch(PointwiseMixer(dim, branch_parameters(name.removeprefix('pointwise:'), dim, **options)))
    if name in POINTWISE_MACS:
        return Branch(PointwiseMixer(dim, macs_per_token(name.removeprefix('pointwise-macs:'), dim, **options)))
    if name in EXPERTS:
        return ExpertBranch(dim)
    if name in ATTENTIONS:
        return Branch(Attention(dim, head_width or largest_head(dim), causal=name == 'causal-attn'))
    if name in CONVOLUTIONS:
        return Branch(S4NDMixer(dim, d_state))
    if name in SUMS:
        width = check_head(dim, head_width or largest_head(dim))
        return Branch(LinearAttention(dim, width) if name == 'linear-attn' else TokenSSD(dim, d_state, width))
    if name in TRAINED:
        return Branch(TestTimeTraining(dim, head_width or largest_head(dim)))
    rank = dt_rank or math.ceil(dim / 16)
    if name in BLOCKWISE:
        return Branch(BlockStateMixer(dim, d_state, rank, head_width or largest_head(dim)))
    return Branch(ScanMixer(name, dim, d_state, rank))


def names_in_turn(option: str, given: str | Sequence[str], blocks: int, known: Collection[str]) -> tuple[str, ...]:
    """One name of a mixer per block, the given ones taking turns.

    Args:
        option (str): what the message of an error says was given, such as ``'IsotropicMixerNet: mixers'``.
        given (str | Sequence[str]): one name for all blocks, or as many as there are blocks at most.
        blocks (int): number of names to return.
        known (Collection[str]): the names that exist.

    Raises:
        InputError: no names, too many, or an unknown one.
    """
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list | tuple) or not 1 <= len(names) <= blocks:
        raise InputError(f'{option}: {given!r}, expected a name or 1 to {blocks} names for its {blocks} blocks')
    if unknown := [name for name in names if name not in known]:
        raise InputError(f'{option}: {unknown[0]!r} unknown; known: {", ".join(known)}')
    return tuple(names[block % len(names)] for block in range(blocks))


def branch_parameters(name: str, dim: int, **options: Any) -> int:
    """Parameters of a branch; the arguments are those of :func:`build_branch`."""
    with shapes_alone():
        return sum(parameter.numel() for parameter in build_branch(name, dim, **options).parameters())


def branch_macs(name: str, dim: int, height: int, width: int, **options: Any) -> int:
    """Multiply-accumulates of a branch on one map, norms left out; the options are those of :func:`build_branch`.

    All in one unit: a scan's 9 N + 1 products and sums per channel and token (state-spaces/mamba issue 110) are half as
    many multiply-accumulates; published tables add them uncut. Attention counts both of its products whole, the causal
    one too. Test-time training has two inner matrices, applied to keys and queries, and their two gradients. A Fourier
    transform of n real points has 2.5 n log2 n operations, half as many multiply-accumulates.
    """
    with shapes_alone():
        branch = build_branch(name, dim, **options)
    weights = sum(
        parameter.numel() for key, parameter in branch.named_parameters() if key.endswith('weight') or '.kernel_' in key
    )
    tokens = height * width
    macs = tokens * weights
    if name in ATTENTIONS:
        macs += 2 * tokens**2 * dim
    elif name in SCANS:
        macs += tokens * dim * DIRECTIONS[name] * (9 * branch.mixer.d_state + 1) // 2
    elif name in CONVOLUTIONS:
        macs += round(s4nd_macs(dim, height, width))
    elif name in BLOCKWISE:
        macs += tokens * dim * DIRECTIONS[name] * (9 * branch.mixer.d_state + 1) // 2
        macs += block_state_macs(dim, height, width)
    elif name in EXPERTS:
        macs = experts_macs(dim, tokens)
    elif name == 'linear-attn':  # the sum over keys and values, what queries read of it, the normalizer
        macs += tokens * dim * (2 * branch.mixer.head_width + 1)
    elif name == 'ssd-noncausal':
        macs += 2 * tokens * dim * branch.mixer.d_state
    elif name in TRAINED:
        macs += 3 * 2 * tokens * dim * branch.mixer.head_width
    return macs


def macs_per_token(name: str, dim: int, **options: Any) -> int:
    """Multiply-accumulates of a branch per token of one full block, rounded down; see :func:`branch_macs`."""
    return branch_macs(name, dim, WIDEST_BLOCK, WIDEST_BLOCK, **options) // WIDEST_BLOCK**2


def largest_head(dim: int) -> int:
    """The largest divisor of the channels up to ``WIDEST_HEAD``."""
    return max(width for width in range(1, WIDEST_HEAD + 1) if dim % width == 0)


def check_head(dim: int, head_width: int) -> int:
    """The width of a head.

    Raises:
        InputError: it does not divide the channels.
    """
    if dim % head_width:
        raise InputError(f'attention: head_width={head_width}, expected a divisor of the {dim} channels')
    return head_width


class Branch(nn.Module):
    """A mixer between norms without weights."""

    def __init__(self, mixer: nn.Module):
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> map of the same shape; float32 under autocast."""
        return _unit(self.mixer(_unit(x)))


class ScanMixer(DirectionalScans):
    """The selective scan of a map along its raster, from either end or both, or along rows and columns.

    Or along its raster with the states fused over the map.
    """

    def __init__(self, name: str, dim: int, d_state: int, dt_rank: int):
        super().__init__()
        self.name = name
        self.add_scans(dim, DIRECTIONS[name], 1 if name == STATE_FUSED else d_state, dt_rank)
        if name == STATE_FUSED:
            self.state_fusion = StateFusion(dim)
        self.reset_ssm_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> map of the same shape."""
        return self.scan(x.permute(0, 3, 1, 2)).unflatten(1, x.shape[1:3])  # -> [B, C, H, W] -> [B, H*W, C] -> back

    def scan(self, x: Tensor) -> Tensor:
        if self.name == 'ss2d':
            return super().scan(x)
        if self.name == STATE_FUSED:
            return self.scan_fused(x, self.state_fusion)
        reverse = {'ssm': [False], 'ssm-reversed': [True], 'bissm': [False, True]}[self.name]
        return self.scan_directions(x, [None] * len(reverse), reverse)


class Attention(nn.Module):
    """Multi-head attention over all tokens of a map, or over those up to each in raster order."""

    def __init__(self, dim: int, head_width: int, causal: bool):
        super().__init__()
        self.head_width = check_head(dim, head_width)
        self.causal = causal
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[1:3]
        qkv = self.qkv(x).flatten(1, 2).unflatten(-1, (3, -1, self.head_width))  # -> [B, L, 3, heads, width]
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # -> 3 x [B, heads, L, width]
        y = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.proj(y.transpose(1, 2).flatten(2).unflatten(1, grid))  # -> [B, H, W, C]


class TestTimeTraining(nn.Module):
    """A gated model per head that learns an image's keys and values in one step, see :func:`learn_gated`.

    The inner weights have :class:`torch.nn.Linear`'s initialization. H-ViT3's smaller one would leave the output of an
    untrained branch to the rounding of the norm behind it.
    """

    __test__ = False  # not a collection of tests

    def __init__(self, dim: int, head_width: int):
        super().__init__()
        if dim % head_width:
            raise InputError(f'test-time training: head_width={head_width}, expected a divisor of the {dim} channels')
        self.head_width = head_width
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        shape = (1, dim // head_width, head_width, head_width)
        self.w1, self.w2 = (nn.Parameter(torch.empty(shape).uniform_(-1, 1) / head_width**0.5) for _ in range(2))
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[1:3]
        qkv = self.qkv(x).flatten(1, 2).unflatten(-1, (3, -1, self.head_width))  # -> [B, L, 3, heads, width]
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # -> 3 x [B, heads, L, width]
        y = learn_gated(query, key, value, self.w1, self.w2)
        return self.proj(y.transpose(1, 2).flatten(2).unflatten(1, grid))  # -> [B, H, W, C]


class PointwiseMixer(nn.Module):
    """One hidden layer on each token by itself, with a given number of parameters."""

    def __init__(self, dim: int, parameters: int):
        super().__init__()
        hidden, rest = divmod(parameters, 2 * dim)
        self.fc1 = nn.Linear(dim, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, dim, bias=rest >= dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def _unit(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])
