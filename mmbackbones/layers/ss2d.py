"""SS2D: the selective scan of a 2-D map in four directions, each with its own weights.

Source: VMamba, NeurIPS 2024, https://arxiv.org/abs/2401.10166, section 4.2 and figure 3. Families that scan in other
orders (EfficientVMamba, LocalVMamba) keep these parameters and replace :meth:`DirectionalScans.scan`.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbackbones.ops.directional_scan import directional_scan, project_tokens
from mmbackbones.ops.scan_orders import ScanOrder, scan_order
from mmbackbones.ops.selective_scan import selective_scan

DIRECTIONS = 4
DT_RANGE = (1e-3, 1e-1)  # initial dt, log-uniform (Mamba, section 3.6)


class DirectionalScans(nn.Module):
    """Selective scans of K sequences, each with its own weights, stacked under VMamba's published names.

    Input and output of the scans are float32 whatever autocast says, so that long sums stay within range.
    """

    def add_scans(self, d_inner: int, directions: int, d_state: int, dt_rank: int) -> None:
        """Register the weights, whose values :meth:`reset_ssm_parameters` sets."""
        self.d_state, self.dt_rank = d_state, dt_rank
        self.x_proj_weight = nn.Parameter(torch.empty(directions, dt_rank + 2 * d_state, d_inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(directions, d_inner, dt_rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(directions, d_inner))
        self.A_logs = nn.Parameter(torch.empty(directions * d_inner, d_state))
        self.Ds = nn.Parameter(torch.empty(directions * d_inner))

    @torch.no_grad()
    def reset_ssm_parameters(self) -> None:
        """Initialize the state-space weights as Mamba does (https://arxiv.org/abs/2312.00752, section 3.6)."""
        nn.init.uniform_(
            self.x_proj_weight, -(self.x_proj_weight.shape[-1] ** -0.5), self.x_proj_weight.shape[-1] ** -0.5
        )
        nn.init.uniform_(self.dt_projs_weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        dt = torch.empty_like(self.dt_projs_bias).uniform_(*map(math.log, DT_RANGE)).exp()
        self.dt_projs_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus of it is dt
        self.A_logs.copy_(torch.arange(1, self.d_state + 1).log().expand_as(self.A_logs))
        nn.init.ones_(self.Ds)

    def scan(self, x: Tensor) -> Tensor:
        """Rows, columns, and both from their ends: map [B, D, H, W] -> tokens [B, H*W, D], the sum of the four."""
        height, width = x.shape[-2:]
        columns = scan_order('v', height, width, x.device)
        return self.scan_directions(x, [None, columns, None, columns], [False, False, True, True])

    def scan_directions(self, x: Tensor, orders: list[ScanOrder | None], reverse: list[bool]) -> Tensor:
        """All K directions of a map: [B, D, H, W] -> [B, H*W, D], the sum."""
        shape = self.dt_projs_bias.shape
        return directional_scan(
            x.flatten(2).transpose(1, 2),
            self.x_proj_weight,
            self.dt_projs_weight,
            self.dt_projs_bias,
            -torch.exp(in_float32(self.A_logs)).unflatten(0, shape),
            self.Ds.unflatten(0, shape),
            orders=orders,
            reverse=reverse,
            out_dtype=torch.promote_types(x.dtype, torch.float32),
        )

    def scan_tokens(
        self, u: Tensor, projected: Tensor, k: int, order: Tensor | None = None, reverse: bool = False
    ) -> Tensor:
        """Scan tokens with the weights of direction k.

        Args:
            u (Tensor): [B, L, D] in float32, what is scanned.
            projected (Tensor): [B, L, R + 2 N], its low rank of dt, B and C. No bias joins them, nor dt before the
                scan: so the zeros that the scan takes in padding slots are what a zero would project to.
            k (int): the direction.
            order (Tensor | None): [S], token of each slot, -1 for padding; None: as they stand.
            reverse (bool): scan from the end.

        Returns:
            Tensor: [B, L, D] in float32.
        """
        low_rank, B, C = projected.split([self.dt_rank, self.d_state, self.d_state], dim=2)
        delta = F.linear(low_rank, self.dt_projs_weight[k])  # [B, L, R] -> [B, L, D]
        A_log, D = (m.unflatten(0, self.dt_projs_bias.shape)[k] for m in (self.A_logs, self.Ds))
        y = selective_scan(
            u.transpose(1, 2),
            delta.transpose(1, 2),
            -torch.exp(in_float32(A_log)),
            B.transpose(1, 2),
            C.transpose(1, 2),
            D,
            delta_bias=self.dt_projs_bias[k],
            delta_softplus=True,
            reverse=reverse,
            order=order,
        )
        return y.transpose(1, 2)

    def scan_fused(self, x: Tensor, fuse: Callable[[Tensor], Tensor]) -> Tensor:
        """The only direction of a map, row by row, with d_state 1: its states are fused over the map, then read by C.

        The skip weight D acts on x behind the fusion (Spatial-Mamba, https://arxiv.org/abs/2410.15091).

        Args:
            x (Tensor): map [B, D, H, W].
            fuse (Callable[[Tensor], Tensor]): float32 states [B, D, H, W], channels-last in memory -> the same.

        Returns:
            Tensor: tokens [B, H*W, D] in float32.
        """
        u = in_float32(x)
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2)  # [B, D, H, W] -> [B, L, D]
        low_rank, B, C = F.linear(tokens, self.x_proj_weight[0]).split([self.dt_rank, 1, 1], dim=2)
        (delta,) = project_tokens(low_rank, self.dt_projs_weight[0])
        states = selective_scan(
            u.flatten(2),
            delta.transpose(1, 2),
            -torch.exp(in_float32(self.A_logs)),
            B.transpose(1, 2),
            None,  # the states themselves
            delta_bias=self.dt_projs_bias[0],
            delta_softplus=True,
        )
        states = fuse(states.unflatten(2, x.shape[2:]).contiguous(memory_format=torch.channels_last))
        states, u = (m.permute(0, 2, 3, 1).flatten(1, 2) for m in (states, u))  # [B, D, H, W] -> [B, L, D]
        return states * in_float32(C) + in_float32(self.Ds) * u


class SS2D(DirectionalScans):
    """Token mixer of channels-last maps.

    ``out_proj(out_norm(scan(silu(conv(x)))) [* silu(z)])`` with ``x[, z] = in_proj(input)``. The state-space weights
    of the four directions are stacked under VMamba's published names.

    Args:
        dim (int): channels of the map.
        d_state (int): state size N of each channel.
        ssm_ratio (float): d_inner, the channels of the scans, over ``dim``.
        dt_rank (int | None): rank of dt's projection; None: ``ceil(dim / 16)``.
        conv_bias (bool): whether the 3x3 depthwise convolution has a bias.
        gate (bool): whether a gate z is projected beside x and multiplies the normalized scan.

    Attributes:
        num_directions (int): scans of a map, each with its own weights.
    """

    num_directions = DIRECTIONS

    def __init__(
        self,
        dim: int,
        *,
        d_state: int = 1,
        ssm_ratio: float = 2.0,
        dt_rank: int | None = None,
        conv_bias: bool = False,
        gate: bool = False,
    ):
        super().__init__()
        d_inner = int(ssm_ratio * dim)
        self.gate = gate
        self.in_proj = nn.Linear(dim, 2 * d_inner if gate else d_inner, bias=False)
        self.conv2d = nn.Conv2d(d_inner, d_inner, 3, padding=1, groups=d_inner, bias=conv_bias)
        self.add_scans(d_inner, self.num_directions, d_state, dt_rank or math.ceil(dim / 16))
        self.out_norm = nn.LayerNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, dim, bias=False)
        self.reset_ssm_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> map of the same shape."""
        height, width = x.shape[1:3]
        x = self.in_proj(x)
        if self.gate:
            x, z = x.chunk(2, dim=-1)
        x = F.silu(self.conv2d(x.permute(0, 3, 1, 2)))  # [B, H, W, D] -> [B, D, H, W]
        y = self.out_norm(self.scan(x)).unflatten(1, (height, width))  # [B, D, H, W] -> [B, H*W, D] -> [B, H, W, D]
        if self.gate:
            y = y * F.silu(z)
        return self.out_proj(y)


def in_float32(x: Tensor) -> Tensor:
    """Widen half precision to float32; float32 and float64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
