"""Directional scans through Triton: one launch after the other, each adding its direction to the sum by index.

The input of a direction, the SiLU of its convolution, is recomputed wherever it is needed: in the scan from a window in
registers, and by a kernel of its own, into memory that is freed at once, for the projection that reads it. The step is
multiplied out of its low rank inside the scan, see :func:`rank_in_registers`. The last launch applies the gate.

Kept for the backward pass: the projected low ranks, B and C, the states before every chunk and, where several
directions meet a gate, the sum before it. Tokens that lie in rows of wider memory are read in place.
"""

import torch
from torch import Tensor

from mmbackbones.ops.selective_scan.triton import Problem, saved_shape, sizes, states_last

CONV_TIME, CONV_BLOCK = 16, 64


def rank_in_registers(rank: int, state: int) -> int:
    """The rank, padded, that the forward kernel multiplies out itself; 0: a matrix product does it beforehand.

    A lane takes R multiply-adds per step and a quarter as many reads for it, and spares the write and the read of the
    step's size, which are worth some 20 instructions; registers end at 32 beside 16 states.
    """
    padded = 1 << (rank - 1).bit_length() if rank <= 16 else -(-rank // 16) * 16
    return padded if padded <= (32 if state > 4 else 16) else 0


def shapes(x, dt_weight, A, z, orders, save) -> dict[str, tuple]:
    """Of what the forward pass leaves for the backward pass. Sizes may be symbolic."""
    (batch, tokens, dim), (directions, _, rank), state = x.shape, dt_weight.shape, A.shape[2]
    if not save:
        return dict(kept=(0,), projected=(0,), saved=(0,))
    longest = max(tokens if order is None else order.numel() for order in orders)
    return dict(
        kept=tuple(x.shape) if z is not None and directions > 1 else (0,),
        projected=(batch, tokens, directions, rank + 2 * state),
        saved=(directions, *saved_shape(batch, dim, longest, state)),
    )


def forward(x, proj_weight, dt_weight, dt_bias, A, D, z, conv_weight, conv_bias, orders, reverse, out_dtype, save):
    mixer = _Mixer(x, proj_weight, dt_weight, dt_bias, A, D, z, conv_weight, conv_bias, orders, reverse)
    left = shapes(x, dt_weight, A, z, orders, save)
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


def backward(dout, x, proj_weight, dt_weight, dt_bias, A, D, z, conv_weight, conv_bias, kept, projected, saved, orders,
             reverse):  # fmt: skip
    mixer = _Mixer(x, proj_weight, dt_weight, dt_bias, A, D, z, conv_weight, conv_bias, orders, reverse)
    directions, _, rank = dt_weight.shape
    dout = dout if dout.stride(2) == 1 else dout.contiguous()
    dx = torch.empty(x.shape, dtype=torch.float32 if directions > 1 else x.dtype, device=x.device)
    ddelta = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dz = None if z is None else torch.empty(x.shape, dtype=z.dtype, device=x.device)
    dprojected = torch.empty_like(projected)
    gradients = [[] for _ in range(7)]
    dprojs, ddts, dbiases, dAs, dDs, dconvs, dconv_biases = gradients
    for k in range(directions):
        u, du = mixer.x, dx
        if conv_weight is not None:
            u, du = mixer.convolved(k), torch.empty(x.shape, dtype=x.dtype, device=x.device)
        problem = mixer.problem(k, projected, z=mixer.z, in_kernel=False, u=u)
        dA, dB, dC, dD, dbias = problem.backward(
            dout, None, saved[k], du, ddelta, None if k else dz, kept=kept if kept.numel() else None,
            add=k > 0 and conv_weight is None)  # fmt: skip
        dAs.append(dA.t())
        dDs.append(dD)
        dbiases.append(dbias)
        low_rank, dlow = projected[:, :, k, :rank], dprojected[:, :, k]
        torch.cat([ddelta @ mixer.dt_weight(k), dB[:, 0].to(x.dtype), dC[:, 0].to(x.dtype)], dim=2, out=dlow)
        ddts.append(ddelta.flatten(0, 1).T @ low_rank.flatten(0, 1))
        if conv_weight is not None:
            dprojs.append(dlow.flatten(0, 1).T @ u.flatten(0, 1))
            du.flatten(0, 1).addmm_(dlow.flatten(0, 1), mixer.proj_weight[k])
            dconv, dconv_bias = mixer.conv_backward(k, du, dx, add=k > 0)
            dconvs.append(dconv)
            dconv_biases.append(dconv_bias)
    if conv_weight is None:
        dprojected, weight = dprojected.flatten(2).flatten(0, 1), mixer.proj_weight.flatten(0, 1)
        dproj = (dprojected.T @ mixer.x.flatten(0, 1)).view_as(proj_weight)
        dx = dx + (dprojected @ weight).view(x.shape)
    else:
        dproj = torch.stack(dprojs)

    def stacked(parts, like):
        return x.new_empty(0) if like is None else torch.stack(parts).to(like.dtype)

    return (dx.to(x.dtype), dproj.to(proj_weight.dtype), stacked(ddts, dt_weight), stacked(dbiases, dt_bias),
            stacked(dAs, A), stacked(dDs, D), x.new_empty(0) if z is None else dz, stacked(dconvs, conv_weight),
            stacked(dconv_biases, conv_bias))  # fmt: skip


class _Mixer:
    """The inputs as the kernels want them. Matrix products run in the precision of the tokens."""

    def __init__(self, x, proj_weight, dt_weight, dt_bias, A, D, z, conv_weight, conv_bias, orders, reverse):
        self.x, self.z = (t if t is None or t.stride(2) == 1 else t.contiguous() for t in (x, z))
        self.proj_weight = proj_weight.to(x.dtype)
        self.dt, self.orders, self.reverse = dt_weight, orders, reverse
        self.A = A.float().transpose(1, 2).contiguous()
        self.D, self.dt_bias, self.conv_bias = (
            None if t is None else t.float().contiguous() for t in (D, dt_bias, conv_bias)
        )
        self.conv_weight = None if conv_weight is None else conv_weight.float().transpose(1, 2).contiguous()
        self.rank, self.state = dt_weight.shape[2], A.shape[2]

    def dt_weight(self, k: int) -> Tensor:
        return self.dt[k].to(self.x.dtype)

    def project(self) -> Tensor:
        """Low rank, B and C of every token and direction, (B, L, K, R + 2 N), from what each direction scans."""
        if self.conv_weight is None:
            return (self.x @ self.proj_weight.flatten(0, 1).T).unflatten(2, self.proj_weight.shape[:2])
        return torch.stack([self.convolved(k) @ self.proj_weight[k].T for k in range(len(self.A))], dim=2)

    def problem(self, k: int, projected: Tensor, *, z: Tensor | None, in_kernel: bool,
                u: Tensor | None = None) -> Problem:  # fmt: skip
        """Direction ``k``; ``in_kernel``: convolution and step size are the kernel's, otherwise it scans ``u``."""
        low_rank, B, C = projected[:, :, k].split([self.rank, self.state, self.state], dim=2)
        B, C = (states_last(m, sizes(self.state)['NB'])[:, None] for m in (B, C))
        options, padded = dict(order=self.orders[k]), rank_in_registers(self.rank, self.state)
        if padded and in_kernel:
            delta = states_last(low_rank, padded)[:, None]
            options['step_weight'] = states_last(self.dt[k], padded).T.contiguous()
        elif padded:
            # As exact as in the kernel, whose saved states this step must continue.
            delta = low_rank.float() @ self.dt[k].float().T
        else:
            delta = low_rank @ self.dt_weight(k).T
        if in_kernel and self.conv_weight is not None:
            options['conv_weight'] = self.conv_weight[k]
            options['conv_bias'] = None if self.conv_bias is None else self.conv_bias[k]
        return Problem(
            self.x if u is None else u, delta, self.A[k], B, C, None if self.D is None else self.D[k], z,
            self.dt_bias[k], True, self.reverse[k], **options)  # fmt: skip

    def convolved(self, k: int) -> Tensor:
        """What direction ``k`` scans, at its tokens: the SiLU of the convolution."""
        u = torch.empty(self.x.shape, dtype=self.x.dtype, device=self.x.device)
        self._convolve(k, self.x, u, self.reverse[k], activate=True, add=False)
        return u

    def conv_backward(self, k: int, du: Tensor, dx: Tensor, add: bool) -> tuple[Tensor, Tensor]:
        """Write or add to ``dx``, use ``du`` up, and return the gradients of the convolution's weight and bias."""
        from mmbackbones.ops.directional_scan import triton_kernels as kernels

        grid, extents, constants = self._conv_launch(k, self.x, self.reverse[k])
        parts, taps, dim = grid[0] // -(-self.x.shape[2] // CONV_BLOCK), *self.conv_weight.shape[1:]
        dweight = torch.empty(parts, taps, dim, dtype=torch.float32, device=self.x.device)
        dbias = torch.empty(parts, dim, dtype=torch.float32, device=self.x.device)
        weight, bias, order = self._conv_inputs(k)
        with torch.cuda.device_of(self.x):
            kernels.conv_backward_kernel[grid](
                self.x, du, weight, bias, order, dweight, dbias, *extents, HAS_BIAS=self.conv_bias is not None,
                **constants)  # fmt: skip
        self._convolve(k, du, dx, not self.reverse[k], activate=False, add=add)
        return dweight.sum(0).T, dbias.sum(0)

    def _convolve(self, k: int, x: Tensor, out: Tensor, reverse: bool, activate: bool, add: bool) -> None:
        from mmbackbones.ops.directional_scan import triton_kernels as kernels

        grid, extents, constants = self._conv_launch(k, x, reverse)
        weight, bias, order = self._conv_inputs(k)
        with torch.cuda.device_of(x):
            kernels.conv_kernel[grid](
                x, weight, bias, order, out, *extents, HAS_BIAS=activate and self.conv_bias is not None,
                ACTIVATE=activate, ADD=add, **constants)  # fmt: skip

    def _conv_inputs(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        bias, order = None if self.conv_bias is None else self.conv_bias[k], self.orders[k]
        return self.conv_weight[k], self.x if bias is None else bias, self.x if order is None else order

    def _conv_launch(self, k: int, x: Tensor, reverse: bool) -> tuple[tuple[int], tuple[int, ...], dict]:
        (batch, tokens, dim), order = x.shape, self.orders[k]
        length = tokens if order is None else order.numel()
        grid = (batch * -(-length // CONV_TIME) * -(-dim // CONV_BLOCK),)
        constants = dict(TIME=CONV_TIME, BLOCK=CONV_BLOCK, TAPS=self.conv_weight.shape[1], HAS_ORDER=order is not None,
                         REVERSE=reverse)  # fmt: skip
        return grid, (dim, length, tokens, x.stride(0), x.stride(1)), constants
