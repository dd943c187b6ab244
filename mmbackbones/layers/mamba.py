"""The Mamba mixer, along a sequence in one direction or both.

Papers: "Mamba" (Gu & Dao 2023, https://arxiv.org/abs/2312.00752, section 3.4) and "Vision Mamba" (Zhu et al., ICML
2024, https://arxiv.org/abs/2401.09417, algorithm 1 and the ablation in section 4.4). Parameters bear the names of
state-spaces/mamba, those of the backward direction the suffix ``_b`` of hustvl/Vim, so that published weights fit.

Unlike the originals, nothing is flipped: the backward direction scans by index, and its convolution looks ahead. Where
the scan's backend is Triton, all between the first and the last projection is one operator.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbackbones.errors import InputError
from mmbackbones.ops.directional_scan import directional_scan, directional_scan_is_fused
from mmbackbones.ops.selective_scan import selective_scan

STEP_RANGE = (1e-3, 1e-1)
DIRECTIONS = ('forward', 'backward', 'ssm', 'ssm_conv')


class MambaMixer(nn.Module):
    """Gated selective state space model; neither norm nor residual.

    Args:
        dim (int): channels C of the tokens.
        d_state (int): state size N per channel.
        d_conv (int): width of the depthwise convolution before the scan.
        expand (int): inner channels D = expand * C.
        dt_rank (int | None): rank of the step size's projection, None: ceil(C / 16).
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
        inner = self.d_inner
        setattr(self, f'conv1d{suffix}', nn.Conv1d(inner, inner, d_conv, groups=inner, bias=conv_bias))
        setattr(self, f'x_proj{suffix}', nn.Linear(inner, self.dt_rank + 2 * self.d_state, bias=False))
        setattr(self, f'dt_proj{suffix}', StepProjection(self.dt_rank, inner))
        setattr(self, f'A{suffix}_log', initial_A_log(inner, self.d_state))
        setattr(self, f'D{suffix}', nn.Parameter(torch.ones(inner)))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, L, C] -> [B, L, C]."""
        if directional_scan_is_fused(x):
            return self.out_proj(self._fused_scans(*self.in_proj(x).chunk(2, dim=2)))
        x, z = project_tokens(self.in_proj, x).chunk(2, dim=1)  # [B, L, C] -> 2 x [B, D, L]
        y = self._scan(x, z, reverse=self.direction == 'backward')
        if self.direction == 'ssm_conv':
            y = y + self._scan(x, z, suffix='_b', reverse=True)
        if self.divide_out:
            y = y / 2
        return self.out_proj(y.transpose(1, 2))  # [B, D, L] -> [B, L, C]

    def _fused_scans(self, x: Tensor, z: Tensor) -> Tensor:
        """All directions of x, gated by z, all [B, L, D]."""
        suffixes = {'ssm': ('', ''), 'ssm_conv': ('', '_b')}.get(self.direction, ('',))
        convs, x_projs, dt_projs, Ds = (
            [getattr(self, name + suffix) for suffix in suffixes] for name in ('conv1d', 'x_proj', 'dt_proj', 'D')
        )
        A_logs = [getattr(self, name) for name in ('A_log', 'A_b_log')[: len(suffixes)]]
        proj_weight = torch.stack([linear.weight for linear in x_projs])
        D = torch.stack(Ds)
        if self.divide_out:
            # Half of C and D makes half of the sum, without a pass over it.
            rest, C = proj_weight.split([self.dt_rank + self.d_state, self.d_state], dim=1)
            proj_weight, D = torch.cat([rest, C / 2], dim=1), D / 2
        conv_weight = conv_bias = None
        if self.direction == 'ssm':
            # Both ways over what one convolution leaves, which in both sees only what came before.
            x = F.silu(_one_sided_conv(x.transpose(1, 2), self.conv1d, reverse=False)).transpose(1, 2)
        else:
            conv_weight = torch.stack([conv.weight[:, 0] for conv in convs])
            if self.conv1d.bias is not None:
                conv_bias = torch.stack([conv.bias for conv in convs])
        return directional_scan(
            x,
            proj_weight,
            torch.stack([linear.weight for linear in dt_projs]),
            torch.stack([linear.bias for linear in dt_projs]),
            -torch.exp(torch.stack(A_logs).float()),
            D,
            z,
            conv_weight,
            conv_bias,
            orders=[None] * len(suffixes),
            reverse=[self.direction == 'backward', True][: len(suffixes)],
        )

    def _scan(self, x: Tensor, z: Tensor, suffix: str = '', reverse: bool = False) -> Tensor:
        """One branch: convolution, projections and scan of x, gated by z, all [B, D, L]."""
        conv, x_proj, dt_proj = (getattr(self, f'{name}{suffix}') for name in ('conv1d', 'x_proj', 'dt_proj'))
        x = F.silu(_one_sided_conv(x, conv, reverse))
        dt, B, C = project(x_proj, x).split([self.dt_rank, self.d_state, self.d_state], dim=1)
        delta = project(dt_proj, dt)  # its bias joins inside the scan, in float32

        def scan(A_log: Tensor, reverse: bool) -> Tensor:
            return selective_scan(
                x,
                delta,
                -torch.exp(A_log.float()),
                B,
                C,
                getattr(self, f'D{suffix}'),
                z,
                dt_proj.bias,
                delta_softplus=True,
                reverse=reverse,
            )

        y = scan(getattr(self, f'A{suffix}_log'), reverse)
        return y + scan(self.A_b_log, True) if self.direction == 'ssm' else y


class StepProjection(nn.Linear):
    """Projection whose bias makes the first step sizes log-uniform within ``STEP_RANGE`` (Mamba section 3.6)."""

    def __init__(self, dt_rank: int, inner: int):
        super().__init__(dt_rank, inner)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, -(self.in_features**-0.5), self.in_features**-0.5)
        step = torch.exp(torch.empty_like(self.bias).uniform_(*map(math.log, STEP_RANGE)))
        self.bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus


def project_tokens(linear: nn.Linear, x: Tensor) -> Tensor:
    """Tokens [B, L, C] through a linear layer -> [B, E, L].

    A product that leaves L innermost, where convolution and scan want it, saves transposed copies.
    """
    x, shape = x.flatten(0, 1).T, x.shape[:2]  # [B, L, C] -> [C, B*L]
    y = linear.weight @ x if linear.bias is None else torch.addmm(linear.bias[:, None], linear.weight, x)
    return y.unflatten(1, shape).transpose(0, 1)


def project(linear: nn.Linear, x: Tensor) -> Tensor:
    """Channels of [B, D, L] through the weight of a linear layer, without its bias -> [B, E, L]."""
    return torch.bmm(linear.weight.expand(len(x), -1, -1), x)


def _one_sided_conv(x: Tensor, conv: nn.Conv1d, reverse: bool) -> Tensor:
    """Causal depthwise convolution over [B, D, L]; under ``reverse`` its mirror image, which sees only what follows."""
    reach = conv.kernel_size[0] - 1
    weight = conv.weight.flip(-1) if reverse else conv.weight
    y = F.conv1d(x, weight, conv.bias, padding=reach, groups=conv.groups)
    return y[..., reach:] if reverse else y[..., : x.shape[-1]]


def initial_A_log(inner: int, d_state: int) -> nn.Parameter:
    """A = -1, ..., -N for every channel (S4D-real, Mamba section 3.6)."""
    return nn.Parameter(torch.log(torch.arange(1, d_state + 1, dtype=torch.float32)).repeat(inner, 1))
