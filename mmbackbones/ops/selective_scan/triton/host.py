"""Layouts, launches and the last sums of the selective scan's Triton kernels.

They want channels contiguous: a (B, D, L) view of (B, L, D) memory is read as it is, anything else is copied. When
batch and channels are too few to fill the device, the sequence is cut into segments that run side by side: first each
from zero, then what enters each is carried along, then each again from there. The backward pass recomputes states from
those that the forward pass saved, one in CHUNK.
"""

import torch
from torch import Tensor

BLOCK = 32  # channels of a program: one for each lane of its single warp
# As many as have room with 255 registers a lane, read four steps ahead and with the chains of all their states in
# flight. With few states memory is the limit, and more warps hide its latency. By arithmetic, not yet by a GPU.
PROGRAMS_PER_MULTIPROCESSOR = 8
PROGRAMS_WITH_FEW_STATES = 32


def sizes(state: int) -> dict[str, int]:
    """N, N as a power of two, steps between saved states, and steps whose states the backward holds in registers."""
    padded = 1 << (int(state) - 1).bit_length()
    steps = 4 if padded <= 4 else 2 if padded <= 16 else 1
    return dict(N=int(state), NB=padded, CHUNK=max(16, 2 * padded), STEPS=steps)


def ahead(padded: int, has_order: bool, rank: int = 0) -> int:
    """Steps that the forward reads before it writes; an order and a high rank take registers, many states leave few."""
    return 2 if padded >= 8 and (has_order or rank > 16) else 4


def launch_options(padded: int, backward: bool = False) -> dict[str, int]:
    """One warp for up to 16 states a channel. Left alone, the assembler prefers a few spills to 200 registers."""
    warps = 1 if padded <= 16 else padded // (8 if backward else 16)
    return dict(num_warps=warps) | (dict(maxnreg=255) if padded >= (4 if backward else 2) else {})


def saved_shape(batch: int, dim: int, length: int, state: int) -> tuple:
    return batch, -(-length // sizes(state)['CHUNK']), state, dim


class Problem:
    """A scan as the kernels want it, and how its work is cut.

    Args:
        u, z: (B, tokens, D) with contiguous channels.
        delta: the same; with ``step_weight`` (B, G, tokens, R) float32, as B and C.
        A: (N, D) float32, as all that follows; contiguous.
        B, C: (B, G, tokens, NB), zero from N on, see :func:`states_last`; they may be parts of wider rows, as many wide
            for both, between which nothing else lies.
        D, delta_bias: (D,).
        order: (S,) integers, the token of each slot, each token once, -1 for padding; None: the tokens as they lie.
        step_weight: (R, D), R one of 1, 2, 4, 8 or a multiple of 16: delta is ``delta @ step_weight``.
        conv_weight, conv_bias: (W, D) and (D,): u is the SiLU of its causal convolution along the scan.
    """

    def __init__(
        self,
        u,
        delta,
        A,
        B,
        C,
        D,
        z,
        delta_bias,
        delta_softplus,
        reverse,
        *,
        order=None,
        step_weight=None,
        conv_weight=None,
        conv_bias=None,
    ):
        self.u, self.delta, self.A, self.B, self.C = u, delta, A, B, C
        self.D, self.z, self.delta_bias = D, z, delta_bias
        self.order, self.step_weight, self.conv_weight, self.conv_bias = order, step_weight, conv_weight, conv_bias
        self.shape, self.groups = tuple(u.shape), B.shape[1]
        self.batch, self.tokens, self.dim = self.shape
        self.length = self.tokens if order is None else order.numel()
        self.sizes = sizes(len(A))
        rank = 0 if step_weight is None else len(step_weight)
        self.visiting = dict(
            N=self.sizes['N'],
            NB=self.sizes['NB'],
            MAP_ROW=B.stride(2),
            BLOCK=BLOCK,
            SOFTPLUS=delta_softplus,
            REVERSE=reverse,
            PADDED=self.length != self.tokens,
        )
        self.reading = dict(
            RANK=rank,
            TILE=min(rank or 1, 16),
            TAPS=0 if conv_weight is None else len(conv_weight),
        )
        self.blocks = -(-self.dim // self.groups // BLOCK)
        programs = self.batch * self.groups * self.blocks
        chunk = self.sizes['CHUNK']
        chunks = -(-self.length // chunk)
        self.segment_length = chunk * -(-chunks // wanted_segments(programs, chunks, self.sizes['NB'], u.device))
        self.segments = -(-self.length // self.segment_length)
        self.grid = (programs * self.segments,)

    def forward(
        self,
        out: Tensor,
        last_state: Tensor,
        saved: Tensor | None,
        *,
        total: Tensor | None = None,
        kept: Tensor | None = None,
    ) -> None:
        """Write the output (B, tokens, D), the last state (B, N, D) and, if wanted, the states before every chunk.

        ``total``, float32, is added to the output; ``kept`` receives the sum before its gate.
        """
        from mmbackbones.ops.selective_scan.triton import kernels

        with torch.cuda.device_of(self.u):
            entry = None
            if self.segments > 1:
                entry = self.carried(self.u, self.B, None, backward=False)
            kernels.forward_kernel[self.grid](
                (self.u, self.delta, self.z, total, kept, out),
                (self.B, self.C),
                (self.D, self.delta_bias, self.conv_weight, self.conv_bias),
                self.order,
                self.A,
                self.step_weight,
                last_state,
                saved,
                entry,
                *self._extents(),
                self._strides(self.u),
                CHUNK=self.sizes['CHUNK'],
                AHEAD=ahead(self.sizes['NB'], self.order is not None, self.reading['RANK']),
                **self.visiting,
                **self.reading,
                **launch_options(self.sizes['NB']),
            )

    def backward(
        self,
        dout: Tensor,
        dlast_state: Tensor | None,
        saved: Tensor,
        du: Tensor,
        ddelta: Tensor,
        dz: Tensor | None,
        *,
        kept: Tensor | None = None,
        add: bool = False,
    ) -> tuple[Tensor, ...]:
        """Write du, ddelta and, if wanted, dz, all (B, tokens, D), and return the float32 gradients of A (N, D), B and
        C (B, G, tokens, N), D and delta_bias.

        ``kept`` is what the forward pass left; without it dz comes from recomputed states. ``add``: du is added to.
        """
        from mmbackbones.ops.selective_scan.triton import kernels

        assert self.reading['RANK'] == self.reading['TAPS'] == 0
        state, padded, chunk, steps = (self.sizes[key] for key in ('N', 'NB', 'CHUNK', 'STEPS'))
        parts = self.batch * self.segments
        float32 = dict(dtype=torch.float32, device=self.u.device)
        dA = torch.empty(parts, state, self.dim, **float32)
        dB, dC = (torch.empty(self.blocks, *self.B.shape, **float32) for _ in range(2))
        dD, dbias = (
            None if given is None else torch.empty(parts, self.dim, **float32) for given in (self.D, self.delta_bias)
        )
        scratch = torch.empty(self.grid[0], chunk // steps + steps - 1, padded, BLOCK, **float32)
        with torch.cuda.device_of(self.u):
            entry = dlast_state
            if self.segments > 1:
                entry = self.carried(dout, self.C, dlast_state, backward=True)
            kernels.backward_for(padded)[self.grid](
                (dout, self.u, self.delta, self.z, kept, du, ddelta, dz),
                (self.B, self.C, dB, dC),
                (self.D, self.delta_bias, dD, dbias),
                self.order,
                self.A,
                saved,
                entry,
                scratch,
                dA,
                self.batch,
                *self._extents(),
                (*dout.stride()[:2], *self._strides(self.u)),
                CHUNK=chunk,
                STEPS=steps,
                ADD=add,
                **self.visiting,
                **launch_options(padded, backward=True),
            )
        dD, dbias = (None if x is None else x.sum(0) for x in (dD, dbias))
        return dA.sum(0), dB.sum(0)[..., :state], dC.sum(0)[..., :state], dD, dbias

    def carried(self, x: Tensor, weight: Tensor, last_state: Tensor | None, backward: bool) -> Tensor:
        """What enters every segment, (B, segments, N, D): the state, or backwards the gradient of the state."""
        from mmbackbones.ops.selective_scan.triton import kernels

        state = self.sizes['N']
        local = x.new_empty(self.batch, self.segments, state, self.dim, dtype=torch.float32)
        total_step = x.new_empty(self.batch, self.segments, self.dim, dtype=torch.float32)
        kernels.segment_kernel[self.grid](
            (x, self.delta, self.z),
            weight,
            (self.delta_bias, self.conv_weight, self.conv_bias),
            self.order,
            self.A,
            self.step_weight,
            local,
            total_step,
            *self._extents(),
            self._strides(x),
            BACKWARD=backward,
            **self.visiting,
            **self.reading,
            **launch_options(self.sizes['NB']),
        )
        entry = torch.empty_like(local)
        elements = state * self.dim
        kernels.carry_kernel[(self.batch * -(-elements // 128),)](
            self.A,
            local,
            total_step,
            last_state,
            entry,
            self.dim,
            elements,
            self.segments,
            BACKWARD=backward,
            num_warps=4,
        )
        return entry

    def _extents(self) -> tuple[int, ...]:
        return self.dim, self.groups, self.length, self.tokens, self.segments, self.segment_length

    def _strides(self, x: Tensor) -> tuple[int, ...]:
        """Of batch and time of x, the step and the gate."""
        z = x if self.z is None else self.z
        return *x.stride()[:2], *self.delta.stride()[:2], *z.stride()[:2]


def wanted_segments(programs: int, chunks: int, padded: int, device: torch.device) -> int:
    """Into how many segments to cut a sequence of so many chunks: 1 where the programs alone busy the device.

    Segments repeat the exponentials, so a third of the wanted programs is thought enough.
    """
    wanted = PROGRAMS_WITH_FEW_STATES if padded <= 4 else PROGRAMS_PER_MULTIPROCESSOR
    if device.type == 'cuda':
        wanted *= torch.cuda.get_device_properties(device).multi_processor_count
    return 1 if 3 * programs >= wanted else min(chunks, wanted // programs)


def channels_last(x: Tensor) -> Tensor:
    """[B, D, L] -> [B, L, D] with contiguous channels, a view where that is possible."""
    x = x.transpose(1, 2)
    return x if x.stride(2) == 1 else x.contiguous()


def states_last(x: Tensor, padded: int) -> Tensor:
    """[..., N] -> [..., padded] float32, contiguous, zeros from N on."""
    make = torch.empty if x.shape[-1] == padded else torch.zeros
    result = make(*x.shape[:-1], padded, dtype=torch.float32, device=x.device)
    result[..., : x.shape[-1]].copy_(x)  # converts and transposes in one pass
    return result
