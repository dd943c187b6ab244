"""The non-causal state-space duality: every token adds to one state, and every token reads all of it.

Source: "VSSD: Vision Mamba with Non-Causal State Space Duality", https://arxiv.org/abs/2407.18559, section 3.3. Without
an order of the tokens the decay of Mamba-2's state is only a weight of each token's share. The cost is linear in the
tokens, and the result does not depend on their order.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbackbones.layers.ss2d import DT_RANGE, in_float32

A_RANGE = (1, 16)  # of the initial A, uniform (Mamba-2, https://arxiv.org/abs/2405.21060)


def noncausal_ssd(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """``C @ sum(outer(B, dt * A * x)) + D * x``, the sum over all tokens, in float32 whatever autocast says.

    The sum is not divided by the number of tokens, so its share beside ``D * x`` grows with the map, as in the
    training of the published weights.

    Args:
        x (Tensor): [B, L, H, P], the tokens in H heads of width P.
        dt (Tensor): [B, L, H], positive.
        A (Tensor): [H], positive: a factor, not a rate of decay.
        B (Tensor): [B, L, N], what a token writes into the state, for all heads.
        C (Tensor): [B, L, N], how a token reads the state.
        D (Tensor): [H], skip weight.

    Returns:
        Tensor: [B, L, H, P] in float32, or float64 if ``x`` is.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, dt, A, B, C, D = (in_float32(tensor) for tensor in (x, dt, A, B, C, D))
        weighted = (x * (dt * A)[..., None]).flatten(2)  # [B, L, H, P] -> [B, L, H * P]
        state = B.transpose(1, 2) @ weighted  # [B, N, H * P]
        return (C @ state).view_as(x) + x * D[:, None]


class NonCausalSSD(nn.Module):
    """The parameters of :func:`noncausal_ssd`, one number per head each, under Mamba-2's names."""

    def add_heads(self, num_heads: int) -> None:
        """Register ``A_log``, ``D`` and ``dt_bias``, initialized as in Mamba-2."""
        self.A_log = nn.Parameter(torch.empty(num_heads).uniform_(*A_RANGE).log())
        self.D = nn.Parameter(torch.ones(num_heads))
        dt = torch.empty(num_heads).uniform_(*map(math.log, DT_RANGE)).exp()
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # softplus of it is dt

    def mix(self, x: Tensor, B: Tensor, C: Tensor, dt: Tensor) -> Tensor:
        """Map [B, H, W, D] with its projections B and C [B, H, W, N] and dt [B, H, W, heads] -> [B, H, W, D]."""
        num_heads = len(self.A_log)
        y = noncausal_ssd(
            x.flatten(1, 2).unflatten(-1, (num_heads, -1)),  # [B, H, W, D] -> [B, L, heads, P]
            F.softplus(in_float32(dt.flatten(1, 2)) + self.dt_bias),
            in_float32(self.A_log).exp(),
            B.flatten(1, 2),
            C.flatten(1, 2),
            self.D,
        )
        return y.flatten(2).unflatten(1, x.shape[1:3])


class TokenSSD(NonCausalSSD):
    """The duality alone, with B, C and dt projected from the tokens: no convolution, gate or norm.

    Args:
        dim (int): channels C of the tokens.
        d_state (int): state size N, the width of B and C.
        head_width (int): channels of a head, a divisor of C.
    """

    def __init__(self, dim: int, d_state: int, head_width: int):
        super().__init__()
        num_heads = dim // head_width
        self.d_state, self.parts = d_state, (d_state, d_state, num_heads)
        self.proj = nn.Linear(dim, sum(self.parts), bias=False)
        self.add_heads(num_heads)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, C] -> map of the same shape."""
        return self.mix(x, *self.proj(x).split(self.parts, dim=-1))
