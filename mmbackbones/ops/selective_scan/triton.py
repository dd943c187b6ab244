"""The selective scan on CUDA through Triton, without nvcc: layouts, launches and the last sums.

The kernels (``triton_kernels.py``, imported at the first use, since it needs Triton) want channels contiguous: a
(B, D, L) view of (B, L, D) memory is read as it is, anything else is copied. When batch and channels are too few to
fill the device, the sequence is cut into segments that run side by side: first each from zero, then what enters each
is carried along, then each again from there. The backward pass recomputes states from those that the forward pass
saved, one in CHUNK.
"""

import os

import torch
from torch import Tensor

DEVICES = ('cuda', 'cpu') if os.environ.get('TRITON_INTERPRET') == '1' else ('cuda',)
FLOAT64 = False

BLOCK = 32  # channels of a program: one for each lane of its single warp
# With few states memory is the limit, and more warps hide its latency. Both by arithmetic, not yet by a GPU.
PROGRAMS_PER_MULTIPROCESSOR = 16
PROGRAMS_WITH_FEW_STATES = 32


def available() -> str | None:
    try:
        import triton  # noqa: F401
    except ImportError:
        return 'triton is not installed; pip install triton'
    if DEVICES == ('cuda',) and not torch.cuda.is_available():
        return 'triton needs a CUDA device, and PyTorch sees none'
    return None


def sizes(state: int) -> dict[str, int]:
    """N, N as a power of two, steps between saved states, and steps whose states the backward holds in registers."""
    padded = 1 << (int(state) - 1).bit_length()
    steps = 4 if padded <= 4 else 2 if padded <= 16 else 1
    return dict(N=int(state), NB=padded, CHUNK=max(16, 2 * padded), STEPS=steps)


def launch_options(padded: int, backward: bool = False) -> dict[str, int]:
    """One warp for up to 16 states a channel. Left alone, the assembler prefers a few spills to 200 registers."""
    if not backward:
        return dict(num_warps=max(1, padded // 16))
    return dict(num_warps=1 if padded <= 16 else padded // 8) | (dict(maxnreg=255) if padded >= 4 else {})


def saved_shape(batch: int, dim: int, length: int, state: int) -> tuple:
    return batch, -(-length // sizes(state)['CHUNK']), state, dim


def forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, save):
    from mmbackbones.ops.selective_scan import triton_kernels as kernels

    (batch, dim, length), groups, state = u.shape, B.shape[1], A.shape[1]
    problem = _Problem(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
    out = u.new_empty(batch, length, dim)
    last_state = u.new_empty(batch, state, dim, dtype=torch.float32)
    saved = u.new_empty(saved_shape(batch, dim, length, state) if save else (0,), dtype=torch.float32)
    with torch.cuda.device_of(u):
        entry = problem.carried(kernels, problem.u, problem.B, None, backward=False) if problem.segments > 1 else saved
        kernels.forward_kernel[problem.grid](
            problem.u,
            problem.delta,
            problem.A,
            problem.B,
            problem.C,
            problem.D,
            problem.z,
            problem.delta_bias,
            out,
            last_state,
            saved,
            entry,
            dim,
            groups,
            length,
            problem.segments,
            problem.segment_length,
            *_strides(problem.u),
            *_strides(problem.delta),
            *_strides(problem.z),
            CHUNK=problem.sizes['CHUNK'],
            HAS_D=D is not None,
            SAVE=save,
            SEGMENTED=problem.segments > 1,
            **problem.constants,
            num_warps=1,
        )
    return out.transpose(1, 2).contiguous(), last_state.transpose(1, 2).contiguous(), saved


def backward(dout, dlast_state, u, delta, A, B, C, D, z, delta_bias, saved, delta_softplus, reverse):
    from mmbackbones.ops.selective_scan import triton_kernels as kernels

    (batch, dim, length), groups, state = u.shape, B.shape[1], A.shape[1]
    problem = _Problem(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)
    dout = _channels_last(dout)
    dlast_state = None if dlast_state is None else dlast_state.float().transpose(1, 2).contiguous()
    padded, chunk, steps = (problem.sizes[key] for key in ('NB', 'CHUNK', 'STEPS'))
    parts = batch * problem.segments
    float32 = dict(dtype=torch.float32, device=u.device)
    du, ddelta, dz = (x.new_empty(batch, length, dim) if given else x for x, given in
                      ((u, True), (delta, True), (problem.z, z is not None)))  # fmt: skip
    dA = torch.empty(parts, state, dim, **float32)
    dB, dC = (torch.empty(problem.blocks, batch, groups, length, padded, **float32) for _ in range(2))
    dD, dbias = (
        torch.empty(parts if given else 0, dim, **float32) for given in (D is not None, delta_bias is not None)
    )
    scratch = torch.empty(problem.grid[0], chunk // steps + steps - 1, padded, BLOCK, **float32)
    with torch.cuda.device_of(u):
        entry = dlast_state
        if problem.segments > 1:
            entry = problem.carried(kernels, dout, problem.C, dlast_state, backward=True)
        kernels.backward_for(padded)[problem.grid](
            dout,
            problem.u,
            problem.delta,
            problem.A,
            problem.B,
            problem.C,
            problem.D,
            problem.z,
            problem.delta_bias,
            saved,
            saved if entry is None else entry,
            scratch,
            du,
            ddelta,
            dA,
            dB,
            dC,
            dD,
            dz,
            dbias,
            batch,
            dim,
            groups,
            length,
            problem.segments,
            problem.segment_length,
            *_strides(dout),
            *_strides(problem.u),
            *_strides(problem.delta),
            *_strides(problem.z),
            CHUNK=chunk,
            STEPS=steps,
            HAS_D=D is not None,
            HAS_ENTRY=entry is not None,
            **problem.constants,
            num_warps=1,
        )

    def state_last(x, like):
        # [blocks, B, G, L, NB] -> [B, G, N, L]
        return x.sum(0)[..., :state].transpose(2, 3).to(like.dtype).contiguous()

    def over_parts(x, like):
        return u.new_empty(0) if like is None else x.sum(0).to(like.dtype)

    return (du.transpose(1, 2).contiguous(), ddelta.transpose(1, 2).contiguous(),
            dA.sum(0).t().to(A.dtype).contiguous(), state_last(dB, B), state_last(dC, C), over_parts(dD, D),
            u.new_empty(0) if z is None else dz.transpose(1, 2).contiguous(),
            over_parts(dbias, delta_bias))  # fmt: skip


class _Problem:
    """The inputs as the kernels want them, and how the work is cut. Absent tensors are stood in for by u."""

    def __init__(self, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse):
        (self.batch, self.dim, self.length), self.groups = u.shape, B.shape[1]
        self.sizes = sizes(A.shape[1])
        self.u, self.delta = _channels_last(u), _channels_last(delta)
        self.z = self.u if z is None else _channels_last(z)
        self.A = A.float().t().contiguous()
        self.B, self.C = (_states_last(x, self.sizes['NB']) for x in (B, C))
        self.D, self.delta_bias = (self.A if x is None else x.float().contiguous() for x in (D, delta_bias))
        self.constants = dict(
            N=self.sizes['N'], NB=self.sizes['NB'], BLOCK=BLOCK, HAS_Z=z is not None,
            HAS_BIAS=delta_bias is not None, SOFTPLUS=delta_softplus, REVERSE=reverse)  # fmt: skip
        self.blocks = -(-self.dim // self.groups // BLOCK)
        programs = self.batch * self.groups * self.blocks
        chunk = self.sizes['CHUNK']
        chunks = -(-self.length // chunk)
        self.segment_length = chunk * -(-chunks // wanted_segments(programs, chunks, self.sizes['NB'], u.device))
        self.segments = -(-self.length // self.segment_length)
        self.grid = (programs * self.segments,)

    def carried(self, kernels, x: Tensor, weight: Tensor, last_state: Tensor | None, backward: bool) -> Tensor:
        """What enters every segment, (B, segments, N, D): the state, or backwards the gradient of the state."""
        state, constants = self.sizes['N'], self.constants
        local = x.new_empty(self.batch, self.segments, state, self.dim, dtype=torch.float32)
        total_step = x.new_empty(self.batch, self.segments, self.dim, dtype=torch.float32)
        kernels.segment_kernel[self.grid](
            x,
            self.delta,
            self.A,
            weight,
            self.z,
            self.delta_bias,
            local,
            total_step,
            self.dim,
            self.groups,
            self.length,
            self.segments,
            self.segment_length,
            *_strides(x),
            *_strides(self.delta),
            *_strides(self.z),
            BACKWARD=backward,
            **constants,
            num_warps=1,
        )
        entry = torch.empty_like(local)
        elements = state * self.dim
        kernels.carry_kernel[(self.batch * -(-elements // 128),)](
            self.A,
            local,
            total_step,
            local if last_state is None else last_state,
            entry,
            self.dim,
            elements,
            self.segments,
            HAS_LAST=last_state is not None,
            BACKWARD=backward,
            num_warps=4,
        )
        return entry


def wanted_segments(programs: int, chunks: int, padded: int, device: torch.device) -> int:
    """Into how many segments to cut a sequence of so many chunks: 1 where the programs alone busy the device.

    Segments repeat the exponentials, so a third of the wanted programs is thought enough.
    """
    wanted = PROGRAMS_WITH_FEW_STATES if padded <= 4 else PROGRAMS_PER_MULTIPROCESSOR
    if device.type == 'cuda':
        wanted *= torch.cuda.get_device_properties(device).multi_processor_count
    return 1 if 3 * programs >= wanted else min(chunks, wanted // programs)


def _channels_last(x: Tensor) -> Tensor:
    """[B, D, L] -> [B, L, D] with contiguous channels, a view where that is possible."""
    x = x.transpose(1, 2)
    return x if x.stride(2) == 1 else x.contiguous()


def _states_last(x: Tensor, padded: int) -> Tensor:
    """[B, G, N, L] -> [B, G, L, NB] float32, zeros from N on."""
    batch, groups, state, length = x.shape
    make = torch.empty if state == padded else torch.zeros
    result = make(batch, groups, length, padded, dtype=torch.float32, device=x.device)
    result[..., :state].copy_(x.transpose(2, 3))  # converts and transposes in one pass
    return result


def _strides(x: Tensor) -> tuple[int, int]:
    return x.stride(0), x.stride(1)
