"""Directional scans through Triton: one launch after the other, each adding its direction to the sum by index.

The input of a direction, the SiLU of its convolution, is computed wherever it is read: by the projection in tiles, by
the scan from a window in registers. Only the backward pass writes it down, for as long as it needs it, and in float32
the projection. The step is multiplied out of its low rank inside the scan, see :func:`rank_in_registers`. The last
launch applies the gate.

Kept for the backward pass: the projected low ranks, B and C, the states before every chunk and, where several
directions meet a gate, the sum before it. Tokens that lie in rows of wider memory are read in place.
"""

import os
from typing import NamedTuple

import torch
from torch import Tensor

from mmbackbones.ops.directional_scan.arguments import DirectionalArguments
from mmbackbones.ops.selective_scan.triton.host import Problem, saved_shape, sizes, states_last

CONV_TIME, CONV_BLOCK = 16, 64
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
PROJECT_TIME, PROJECT_BLOCK = 32, 32
PROJECT_OPTIONS = dict(num_warps=4, num_stages=2, maxnreg=168)
# Exact float32 products have no tensor cores, and the library's are better than a compiler's.
PROJECTED_IN_TILES = (torch.bfloat16, torch.float16)


def rank_in_registers(rank: int, state: int) -> int:
    """The rank, padded, that the forward kernel multiplies out itself; 0: a matrix product does it beforehand.

    A lane takes R multiply-adds per step and a quarter as many reads for it, and spares the write and the read of the
    step's size, which are worth some 20 instructions; registers end at 32 beside 16 states.
    """
    padded = 1 << (rank - 1).bit_length() if rank <= 16 else -(-rank // 16) * 16
    return padded if padded <= (32 if state > 4 else 16) else 0


class Columns(NamedTuple):
    """Where low rank, B and C stand among what is projected from a token: padded, so that the scan reads vectors."""

    rank: int
    state: int
    B: int
    C: int
    width: int

    def slices(self) -> tuple[slice, slice, slice]:
        return slice(self.rank), slice(self.B, self.B + self.state), slice(self.C, self.C + self.state)


def columns(rank: int, state: int) -> Columns:
    first, padded = -(-(rank_in_registers(rank, state) or rank) // 4) * 4, sizes(state)['NB']
    return Columns(rank, state, first, first + padded, -(-(first + 2 * padded) // 4) * 4)


def shapes(scan: DirectionalArguments, save: bool) -> dict[str, tuple]:
    """Of what the forward pass leaves for the backward pass. Sizes may be symbolic."""
    (batch, tokens, dim), (directions, _, rank), state = scan.x.shape, scan.dt_weight.shape, scan.A.shape[2]
    if not save:
        return dict(kept=(0,), projected=(0,), saved=(0,))
    longest = max(tokens if order is None else order.numel() for order in scan.orders)
    return dict(
        kept=tuple(scan.x.shape) if scan.z is not None and directions > 1 else (0,),
        projected=(batch, tokens, directions, columns(rank, state).width),
        saved=(directions, *saved_shape(batch, dim, longest, state)),
    )


def forward(scan: DirectionalArguments, out_dtype: torch.dtype, save: bool) -> tuple[Tensor, ...]:
    """The output, and what the backward pass needs, empty without ``save``: kept, projected, saved."""
    mixer, left, x, A = _Mixer(scan), shapes(scan, save), scan.x, scan.A
    float32 = dict(dtype=torch.float32, device=x.device)
    out = torch.empty(x.shape, dtype=out_dtype, device=x.device)
    kept = torch.empty(left['kept'], dtype=out_dtype, device=x.device)
    saved = torch.empty(left['saved'], **float32)
    total = torch.empty(x.shape if len(A) > 1 else (0,), **float32)
    last_state = torch.empty(len(x), A.shape[2], x.shape[2], **float32)
    projected = mixer.project()
    for k in range(len(A)):
        last = k == len(A) - 1
        mixer.problem(k, projected, z=mixer.z if last else None, in_kernel=True).forward(
            out if last else total,
            last_state,
            saved[k] if save else None,
            total=total if k else None,
            kept=kept if last and kept.numel() else None,
        )
    return out, kept, projected if save else projected.new_empty(0), saved


def backward(
    scan: DirectionalArguments, dout: Tensor, kept: Tensor, projected: Tensor, saved: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of the nine tensors; that of an absent one is empty."""
    mixer, (x, proj_weight, dt_weight, dt_bias, A, D, z, conv_weight, conv_bias) = _Mixer(scan), scan.tensors
    directions, columns = len(A), mixer.columns
    dout = dout if dout.stride(2) == 1 else dout.contiguous()
    dx = torch.empty(x.shape, dtype=torch.float32 if directions > 1 else x.dtype, device=x.device)
    ddelta = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dz = None if z is None else torch.empty(x.shape, dtype=z.dtype, device=x.device)
    dprojected = torch.zeros(projected.shape, dtype=x.dtype, device=x.device)
    gradients = [[] for _ in range(7)]
    dprojs, ddts, dbiases, dAs, dDs, dconvs, dconv_biases = gradients
    for k in range(directions):
        u, du = mixer.x, dx
        if conv_weight is not None:
            u, du = mixer.convolved(k), torch.empty(x.shape, dtype=x.dtype, device=x.device)
        problem = mixer.problem(k, projected, z=mixer.z, in_kernel=False, u=u)
        dA, dB, dC, dD, dbias = problem.backward(
            dout,
            None,
            saved[k],
            du,
            ddelta,
            None if k else dz,
            kept=kept if kept.numel() else None,
            add=k > 0 and conv_weight is None,
        )
        dAs.append(dA.t())
        dDs.append(dD)
        dbiases.append(dbias)
        low_rank = projected[:, :, k, : columns.rank].to(x.dtype)
        dlow = dprojected[:, :, k]
        for part, gradient in zip(columns.slices(), (ddelta @ mixer.dt_weight[k], dB[:, 0], dC[:, 0])):
            dlow[:, :, part] = gradient
        ddts.append(ddelta.flatten(0, 1).T @ low_rank.flatten(0, 1))
        if conv_weight is not None:
            dprojs.append(dlow.flatten(0, 1).T @ u.flatten(0, 1))
            du.flatten(0, 1).addmm_(dlow.flatten(0, 1), mixer.proj_weight[k])
            dconv, dconv_bias = mixer.conv_backward(k, du, dx, add=k > 0)
            dconvs.append(dconv)
            dconv_biases.append(dconv_bias)
    if conv_weight is None:
        dprojected, weight = dprojected.flatten(2).flatten(0, 1), mixer.proj_weight.flatten(0, 1)
        dproj = (dprojected.T @ mixer.x.flatten(0, 1)).unflatten(0, (directions, -1))
        dx = dx + (dprojected @ weight).view(x.shape)
    else:
        dproj = torch.stack(dprojs)
    dproj = torch.cat([dproj[:, part] for part in columns.slices()], dim=1)

    def stacked(parts, like):
        return x.new_empty(0) if like is None else torch.stack(parts).to(like.dtype)

    return (
        dx.to(x.dtype),
        dproj.to(proj_weight.dtype),
        stacked(ddts, dt_weight),
        stacked(dbiases, dt_bias),
        stacked(dAs, A),
        stacked(dDs, D),
        x.new_empty(0) if z is None else dz,
        stacked(dconvs, conv_weight),
        stacked(dconv_biases, conv_bias),
    )


class _Mixer:
    """The inputs as the kernels want them. Matrix products run in the precision of the tokens."""

    def __init__(self, scan: DirectionalArguments):
        x, proj_weight, dt_weight, dt_bias, A, D, z, conv_weight, conv_bias, orders, reverse = scan
        self.x, self.z = (t if t is None or t.stride(2) == 1 else t.contiguous() for t in (x, z))
        self.columns = columns(dt_weight.shape[2], A.shape[2])
        self.proj_weight = x.new_zeros(len(A), self.columns.width, x.shape[2])
        parts = proj_weight.split([self.columns.rank, self.columns.state, self.columns.state], dim=1)
        for columns_, part in zip(self.columns.slices(), parts):
            self.proj_weight[:, columns_] = part
        self.orders, self.reverse = orders, reverse
        self.A = A.float().transpose(1, 2).contiguous()
        self.D, self.dt_bias, self.conv_bias = (
            None if t is None else t.float().contiguous() for t in (D, dt_bias, conv_bias)
        )
        self.conv_weight = None if conv_weight is None else conv_weight.float().transpose(1, 2).contiguous()
        self.dt_weight = dt_weight.to(x.dtype)
        self.rank_in_registers = rank_in_registers(*self.columns[:2])
        if self.rank_in_registers:
            self.step_weight = states_last(dt_weight, self.rank_in_registers).transpose(1, 2).contiguous()

    def project(self) -> Tensor:
        """Low rank, B and C of every token in every direction, from what that scans: (B, L, K, width) float32."""
        if self.conv_weight is None:
            projected = self.x @ self.proj_weight.flatten(0, 1).T
            return projected.float().unflatten(2, self.proj_weight.shape[:2])
        from mmbackbones.ops.directional_scan.triton import kernels

        (batch, tokens, dim), (directions, width, _) = self.x.shape, self.proj_weight.shape
        projected = torch.empty(batch, tokens, directions, width, dtype=torch.float32, device=self.x.device)
        for k in range(directions):
            if self.x.dtype not in PROJECTED_IN_TILES:
                torch.mm(self.convolved(k).flatten(0, 1), self.proj_weight[k].T, out=projected.flatten(0, 1)[:, k])
                continue
            length = tokens if self.orders[k] is None else self.orders[k].numel()
            with torch.cuda.device_of(self.x):
                kernels.project_kernel[(batch * -(-length // PROJECT_TIME),)](
                    self.x,
                    self._filters(k),
                    self.orders[k],
                    self.proj_weight[k],
                    projected[:, :, k],
                    dim,
                    length,
                    tokens,
                    width,
                    (*self.x.stride()[:2], projected.stride(1)),
                    TIME=PROJECT_TIME,
                    BLOCK=PROJECT_BLOCK,
                    WIDTH=max(16, 1 << (width - 1).bit_length()),
                    TAPS=self.conv_weight.shape[1],
                    REVERSE=self.reverse[k],
                    INTERPRETED=INTERPRETED,
                    **PROJECT_OPTIONS,
                )
        return projected

    def problem(
        self, k: int, projected: Tensor, *, z: Tensor | None, in_kernel: bool, u: Tensor | None = None
    ) -> Problem:
        """Direction ``k``; ``in_kernel``: convolution and dt are the kernel's, otherwise it scans ``u``."""
        projected = projected[:, None, :, k]  # [B, L, K, width] -> [B, 1, L, width]
        padded = self.columns.C - self.columns.B
        B, C = (projected[..., first : first + padded] for first in (self.columns.B, self.columns.C))
        options = dict(order=self.orders[k])
        if self.rank_in_registers and in_kernel:
            delta, options['step_weight'] = projected[..., : self.rank_in_registers], self.step_weight[k]
        elif self.rank_in_registers:
            # As exact as in the kernel, whose saved states this step must continue.
            delta = projected[:, 0, :, : self.rank_in_registers] @ self.step_weight[k]
        else:
            delta = projected[:, 0, :, : self.columns.rank].to(self.x.dtype) @ self.dt_weight[k].T
        if in_kernel and self.conv_weight is not None:
            options['conv_weight'] = self.conv_weight[k]
            options['conv_bias'] = None if self.conv_bias is None else self.conv_bias[k]
        return Problem(
            self.x if u is None else u,
            delta,
            self.A[k],
            B,
            C,
            None if self.D is None else self.D[k],
            z,
            self.dt_bias[k],
            True,
            self.reverse[k],
            **options,
        )

    def convolved(self, k: int) -> Tensor:
        """What direction ``k`` scans, at its tokens: the SiLU of the convolution."""
        u = torch.empty(self.x.shape, dtype=self.x.dtype, device=self.x.device)
        self._convolve(k, self.x, u, self.reverse[k], activate=True, add=False)
        return u

    def conv_backward(self, k: int, du: Tensor, dx: Tensor, add: bool) -> tuple[Tensor, Tensor]:
        """Write or add to ``dx``, use ``du`` up, and return the gradients of the convolution's weight and bias."""
        from mmbackbones.ops.directional_scan.triton import kernels

        grid, extents, constants = self._conv_launch(k, self.x, self.reverse[k])
        parts, taps, dim = grid[0] // -(-self.x.shape[2] // CONV_BLOCK), *self.conv_weight.shape[1:]
        dweight = torch.empty(parts, taps, dim, dtype=torch.float32, device=self.x.device)
        dbias = torch.empty(parts, dim, dtype=torch.float32, device=self.x.device)
        with torch.cuda.device_of(self.x):
            kernels.conv_backward_kernel[grid](
                self.x, du, self._filters(k), self.orders[k], dweight, dbias, *extents, **constants
            )
        self._convolve(k, du, dx, not self.reverse[k], activate=False, add=add)
        return dweight.sum(0).T, dbias.sum(0)

    def _convolve(self, k: int, x: Tensor, out: Tensor, reverse: bool, activate: bool, add: bool) -> None:
        from mmbackbones.ops.directional_scan.triton import kernels

        grid, extents, constants = self._conv_launch(k, x, reverse)
        weight, bias = self._filters(k)
        filters = weight, bias if activate else None
        with torch.cuda.device_of(x):
            kernels.conv_kernel[grid](
                x, filters, self.orders[k], out, *extents, ACTIVATE=activate, ADD=add, **constants
            )

    def _filters(self, k: int) -> tuple[Tensor, Tensor | None]:
        return self.conv_weight[k], None if self.conv_bias is None else self.conv_bias[k]

    def _conv_launch(self, k: int, x: Tensor, reverse: bool) -> tuple[tuple[int], tuple, dict]:
        (batch, tokens, dim), order = x.shape, self.orders[k]
        length = tokens if order is None else order.numel()
        grid = (batch * -(-length // CONV_TIME) * -(-dim // CONV_BLOCK),)
        constants = dict(
            TIME=CONV_TIME,
            BLOCK=CONV_BLOCK,
            TAPS=self.conv_weight.shape[1],
            REVERSE=reverse,
        )
        return grid, (dim, length, tokens, x.stride()[:2]), constants
