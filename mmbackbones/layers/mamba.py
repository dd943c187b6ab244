"""The Mamba mixer, along a sequence in one direction or both.

Papers: "Mamba" (Gu & Dao 2023, https://arxiv.org/abs/2312.00752, section 3.4) and "Vision Mamba" (Zhu et al., ICML
2024, https://arxiv.org/abs/2401.09417, algorithm 1 and the ablation in section 4.4). Parameters bear the names of
state-spaces/mamba, those of the backward direction the suffix ``_b`` of hustvl/Vim, so that published weights fit.

Unlike the originals, nothing is flipped: the backward direction scans by index, and its convolution looks ahead. All
between the first and the last projection is :func:`mmbackbones.ops.directional_scan`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbackbones.errors import InputError
from mmbackbones.ops.directional_scan import composed, directional_scan, project_tokens
from mmbackbones.ops.directional_scan.composed import one_sided_conv

DT_RANGE = (1e-3, 1e-1)
DIRECTIONS = ('forward', 'backward', 'ssm', 'ssm_conv')


class MambaMixer(nn.Module):
    """Gated selective state space model; neither norm nor residual.

    Args:
        dim (int): channels C of the tokens.
        d_state (int): state size N per channel.
        d_conv (int): width of the depthwise convolution before the scan.
        expand (int): d_inner, the channels D of the scan, is expand * C.
        dt_rank (int | None): rank of dt's projection, None: ceil(C / 16).
        conv_bias (bool): bias in the convolution.
        bias (bool): bias in the projections into and out of the mixer.
        direction (str): ``'forward'`` is the causal original; ``'backward'`` its mirror image with the same
            parameters; ``'ssm'`` scans both ways with one A per direction and everything else shared (Vim's
            "bidirectional SSM"); ``'ssm_conv'`` gives each direction its own convolution, projections, A and D (Vim's
            block, ``bimamba_type='v2'``).
        divide_out (bool): halve the sum of the two directions, as the released Vim models do.

    Raises:
        InputError: unknown ``direction``.
    """

    def __init__(
        self,
        dim: int,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        conv_bias: bool = True,
        bias: bool = False,
        direction: str = 'forward',
        divide_out: bool = False,
    ):
        super().__init__()
        if direction not in DIRECTIONS:
            raise InputError(f'MambaMixer: direction={direction!r}, expected one of {", ".join(DIRECTIONS)}')
        self.direction = direction
        self.divide_out = divide_out
        self.d_state = d_state
        self.d_inner = expand * dim
        self.dt_rank = dt_rank or math.ceil(dim / 16)

        self.in_proj = nn.Linear(dim, 2 * self.d_inner, bias=bias)
        self._add_branches(d_conv, conv_bias)
        self.out_proj = nn.Linear(self.d_inner, dim, bias=bias)

    def _add_branches(self, d_conv: int, conv_bias: bool) -> None:
        self._add_branch('', d_conv, conv_bias)
        if self.direction == 'ssm':
            self.A_b_log = initial_A_log(self.d_inner, self.d_state)
        elif self.direction == 'ssm_conv':
            self._add_branch('_b', d_conv, conv_bias)

    def _add_branch(self, suffix: str, d_conv: int, conv_bias: bool) -> None:
        d_inner = self.d_inner
        setattr(self, f'conv1d{suffix}', nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, bias=conv_bias))
        setattr(self, f'x_proj{suffix}', nn.Linear(d_inner, self.dt_rank + 2 * self.d_state, bias=False))
        setattr(self, f'dt_proj{suffix}', DtProjection(self.dt_rank, d_inner))
        setattr(self, f'A{suffix}_log', initial_A_log(d_inner, self.d_state))
        setattr(self, f'D{suffix}', nn.Parameter(torch.ones(d_inner)))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, L, C] -> [B, L, C]."""
        x, z = project_tokens(x, self.in_proj.weight, self.in_proj.bias, parts=2)  # [B, L, C] -> 2 x [B, L, D]
        if self.direction == 'ssm':
            # Both ways over what one convolution leaves, which in both sees only what came before.
            x = F.silu(one_sided_conv(x.transpose(1, 2), self.conv1d.weight[:, 0], self.conv1d.bias)).transpose(1, 2)
            y = self.scan(x, z, [''], [False, True], convolved=True)
        elif self.direction == 'ssm_conv':
            y = self.scan(x, z, ['', '_b'], [False, True])
        else:
            y = self.scan(x, z, [''], [self.direction == 'backward'])
        if self.divide_out:
            # Half of the weight makes half of the sum, bit for bit, without a pass over the tokens.
            return F.linear(y, self.out_proj.weight / 2, self.out_proj.bias)
        return self.out_proj(y)

    def scan(self, x: Tensor, z: Tensor, branches: list[str], reverse: list[bool], convolved: bool = False) -> Tensor:
        """Directions of x, summed and gated by z, all [B, L, D].

        Args:
            x (Tensor): the tokens.
            z (Tensor): the gate before its SiLU.
            branches (list[str]): suffix of each direction's parameters, or of the one set that they share, but for A.
            reverse (list[bool]): for each direction whether it goes from the end.
            convolved (bool): x has gone through the convolution and its SiLU already.
        """
        conv, x_proj, dt_proj, D = (
            [getattr(self, name + suffix) for suffix in branches] for name in ('conv1d', 'x_proj', 'dt_proj', 'D')
        )
        A_logs = [self.A_log, self.A_b_log] if convolved else [getattr(self, f'A{suffix}_log') for suffix in branches]
        shared = len(reverse) // len(branches)  # directions with the same parameters
        return directional_scan(
            x,
            shared * [linear.weight for linear in x_proj],
            shared * [linear.weight for linear in dt_proj],
            shared * [linear.bias for linear in dt_proj],
            [-torch.exp(A_log.float()) for A_log in A_logs],
            shared * D,
            z,
            conv_weight=None if convolved else [module.weight[:, 0] for module in conv],
            conv_bias=None if convolved or conv[0].bias is None else [module.bias for module in conv],
            orders=[None] * len(reverse),
            reverse=reverse,
        )


class DtProjection(nn.Linear):
    """dt_proj, whose bias makes the first dt log-uniform within ``DT_RANGE`` (Mamba section 3.6)."""

    def __init__(self, dt_rank: int, d_inner: int):
        super().__init__(dt_rank, d_inner)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, -(self.in_features**-0.5), self.in_features**-0.5)
        dt = torch.exp(torch.empty_like(self.bias).uniform_(*map(math.log, DT_RANGE)))
        self.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus


def project_channels_first(linear: nn.Linear, x: Tensor) -> Tensor:
    """Tokens [B, L, C] through a linear layer -> [B, E, L], where a convolution along the tokens wants them."""
    return composed.project_tokens(x, linear.weight, linear.bias, parts=1)[0].transpose(1, 2)


def project(linear: nn.Linear, x: Tensor) -> Tensor:
    """Channels of [B, D, L] through the weight of a linear layer, without its bias -> [B, E, L]."""
    return torch.bmm(linear.weight.expand(x.shape[0], -1, -1), x)


def initial_A_log(d_inner: int, d_state: int) -> nn.Parameter:
    """A = -1, ..., -N for every channel (S4D-real, Mamba section 3.6)."""
    return nn.Parameter(torch.log(torch.arange(1, d_state + 1, dtype=torch.float32)).repeat(d_inner, 1))
