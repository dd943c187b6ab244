"""Triton kernels of the selective scan; `triton.py` beside this file allocates, launches and reduces.

One program owns ``BLOCK`` channels of one group of one image and one segment of the sequence, and walks through time
with the state of these channels, an (N, BLOCK) tile, in registers: one lane per channel, all N states in the lane, so
that the sum over states needs no exchange between lanes; four lanes to four channels in the backward with more than
two states, which sums over channels as well. (An associative scan over time costs six times the instructions.)

Layouts: sequences (batch, L, D) with channels contiguous and free strides for batch and time; B and C (batch, G, L, NB)
float32; A and everything state-like (..., N, D) float32. NB is N rounded up to a power of two, the rest of B and C
being zero. ``i`` counts steps in scan order, ``t`` is the position in memory; they run against each other when REVERSE.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)

# L differs with every image and must not make a new kernel. The state-like tensors are declared unaligned because
# vectorised access would spread the states of one channel over several lanes.
VARYING = ['length', 'segments', 'segment_length', 'batch_size', 'groups']
STATE_TILES = ['A', 'saved', 'last_state', 'entry', 'local', 'dA', 'scratch']


@triton.jit
def softplus(x):
    """max(x, 0) + log1p(exp(-|x|)), the second term by the series of 2 atanh(s), s = e / (2 + e): lg2.approx would
    lose the relative precision of small steps."""
    e = tl.exp2(-tl.abs(x) * LOG2E)
    s = e / (2.0 + e)
    q = s * s
    p = ((0.134338054 * q + 0.14116972) * q + 0.200038358) * q + 0.333333198
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) + 2.0 * s * (1.0 + q * p)


@triton.jit
def read_step(delta_at, bias, in_range, SOFTPLUS: tl.constexpr):
    """The step size, and what goes into its softplus."""
    raw = tl.load(delta_at, mask=in_range, other=0.0).to(tl.float32) + bias
    step = softplus(raw) if SOFTPLUS else raw
    return step, raw


@triton.jit
def place(dim, groups, length, segments, segment_length, N: tl.constexpr, NB: tl.constexpr, BLOCK: tl.constexpr):
    """Where this program works: neighbours in the grid share B and C, so channel blocks come first."""
    program = tl.program_id(0)
    width = dim // groups
    blocks = tl.cdiv(width, BLOCK)
    block = program % blocks
    group = program // blocks % groups
    segment = program // (blocks * groups) % segments
    batch = (program // (blocks * groups * segments)).to(tl.int64)
    within = block * BLOCK + tl.arange(0, BLOCK)
    d = group * width + within
    in_range = within < width
    n = tl.arange(0, NB)
    tile = n[:, None] * dim + d[None, :]
    in_tile = in_range[None, :] & (n < N)[:, None]
    first = segment * segment_length
    steps = tl.minimum(segment_length, length - first)
    return batch, segment, group, block, d, in_range, n, tile, in_tile, first, steps


@triton.jit
def position(i, length, REVERSE: tl.constexpr):
    t = length - 1 - i if REVERSE else i
    return t.to(tl.int64)


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=STATE_TILES)
def forward_kernel(
    u, delta, A, B, C, D, z, delta_bias, out, last_state, saved, entry,
    dim, groups, length, segments, segment_length,
    u_batch, u_time, delta_batch, delta_time, z_batch, z_time,
    N: tl.constexpr, NB: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, SAVE: tl.constexpr,
    SEGMENTED: tl.constexpr,
):  # fmt: skip
    """Output and last state; with SAVE the states before every CHUNK steps, for the backward pass."""
    batch, segment, group, _, d, in_range, n, tile, in_tile, first, steps = place(
        dim, groups, length, segments, segment_length, N, NB, BLOCK
    )
    a = tl.load(A + tile, mask=in_tile, other=0.0) * LOG2E
    skip = tl.load(D + d, mask=in_range, other=0.0) if HAS_D else 0.0
    bias = tl.load(delta_bias + d, mask=in_range, other=0.0) if HAS_BIAS else 0.0

    t = position(first, length, REVERSE)
    sign = -1 if REVERSE else 1
    u_at = u + batch * u_batch + t * u_time + d
    delta_at = delta + batch * delta_batch + t * delta_time + d
    z_at = z + batch * z_batch + t * z_time + d
    out_at = out + (batch * length + t) * dim + d
    state_at = ((batch * groups + group) * length + t) * NB
    B_at, C_at = B + state_at, C + state_at
    saved_row = batch * tl.cdiv(length, CHUNK) + first // CHUNK

    h = tl.zeros((NB, BLOCK), tl.float32)
    if SEGMENTED:
        h = tl.load(entry + (batch * segments + segment) * N * dim + tile, mask=in_tile, other=0.0)
    for c in range(tl.cdiv(steps, CHUNK)):
        if SAVE:
            tl.store(saved + (saved_row + c) * N * dim + tile, h, mask=in_tile)
        for _ in tl.range(tl.minimum(CHUNK, steps - c * CHUNK), loop_unroll_factor=4):
            step, _ = read_step(delta_at, bias, in_range, SOFTPLUS)
            x = tl.load(u_at, mask=in_range, other=0.0).to(tl.float32)
            h = tl.exp2(a * step[None, :]) * h + tl.load(B_at + n)[:, None] * (step * x)[None, :]
            if N != NB:
                h = tl.where((n < N)[:, None], h, 0.0)  # a non-finite input times a padded zero
            y = tl.sum(h * tl.load(C_at + n)[:, None], 0)
            if HAS_D:
                y += skip * x
            if HAS_Z:
                gate = tl.load(z_at, mask=in_range, other=0.0).to(tl.float32)
                y *= gate * tl.sigmoid(gate)
                z_at += sign * z_time
            tl.store(out_at, y.to(out.dtype.element_ty), mask=in_range)
            u_at += sign * u_time
            delta_at += sign * delta_time
            out_at += sign * dim
            B_at += sign * NB
            C_at += sign * NB
    if first + steps == length:
        tl.store(last_state + batch * N * dim + tile, h, mask=in_tile)


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=STATE_TILES)
def segment_kernel(
    x, delta, A, weight, z, delta_bias, local, total_step,
    dim, groups, length, segments, segment_length,
    x_batch, x_time, delta_batch, delta_time, z_batch, z_time,
    N: tl.constexpr, NB: tl.constexpr, BLOCK: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """What a segment adds to what flows through it, from zero, and the sum of its steps, which gives its decay.

    Forward: the state, x = u, weight = B. BACKWARD: the gradient of the state, from the segment's end to its start,
    x = dout, weight = C.
    """
    batch, segment, group, _, d, in_range, n, tile, in_tile, first, steps = place(
        dim, groups, length, segments, segment_length, N, NB, BLOCK
    )
    a = tl.load(A + tile, mask=in_tile, other=0.0) * LOG2E
    bias = tl.load(delta_bias + d, mask=in_range, other=0.0) if HAS_BIAS else 0.0

    t = position(first + steps - 1 if BACKWARD else first, length, REVERSE)
    sign = 1 if REVERSE == BACKWARD else -1
    x_at = x + batch * x_batch + t * x_time + d
    delta_at = delta + batch * delta_batch + t * delta_time + d
    z_at = z + batch * z_batch + t * z_time + d
    weight_at = weight + ((batch * groups + group) * length + t) * NB

    h = tl.zeros((NB, BLOCK), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for _ in tl.range(steps, loop_unroll_factor=4):
        step, _ = read_step(delta_at, bias, in_range, SOFTPLUS)
        value = tl.load(x_at, mask=in_range, other=0.0).to(tl.float32)
        decay = tl.exp2(a * step[None, :])
        if BACKWARD:
            if HAS_Z:
                gate = tl.load(z_at, mask=in_range, other=0.0).to(tl.float32)
                value *= gate * tl.sigmoid(gate)
                z_at += sign * z_time
            h = decay * (h + tl.load(weight_at + n)[:, None] * value[None, :])
        else:
            h = decay * h + tl.load(weight_at + n)[:, None] * (step * value)[None, :]
        total += step
        x_at += sign * x_time
        delta_at += sign * delta_time
        weight_at += sign * NB
    tl.store(local + (batch * segments + segment) * N * dim + tile, h, mask=in_tile)
    tl.store(total_step + (batch * segments + segment) * dim + d, total, mask=in_range)


@triton.jit(do_not_specialize=VARYING)
def carry_kernel(
    A, local, total_step, last_state, entry, dim, elements, segments,
    HAS_LAST: tl.constexpr, BACKWARD: tl.constexpr, BLOCK: tl.constexpr = 128, AHEAD: tl.constexpr = 8,
):  # fmt: skip
    """What enters each segment, from what each adds; ``last_state`` enters the first one visited. Elements: N x D."""
    blocks = tl.cdiv(elements, BLOCK)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    e = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = e < elements
    a = tl.load(A + e, mask=inside, other=0.0) * LOG2E
    h = tl.zeros((BLOCK,), tl.float32)
    if HAS_LAST:
        h = tl.load(last_state + batch * elements + e, mask=inside, other=0.0)
    for first in range(0, segments, AHEAD):
        # Nothing here depends on the carry: AHEAD reads are in flight together.
        added, step = (), ()
        for j in tl.static_range(AHEAD):
            s = tl.minimum(first + j, segments - 1)
            s = batch * segments + (segments - 1 - s if BACKWARD else s)
            added = added + (tl.load(local + s * elements + e, mask=inside, other=0.0),)
            step = step + (tl.load(total_step + s * dim + e % dim, mask=inside, other=0.0),)
        for j in tl.static_range(AHEAD):
            if first + j < segments:
                s = batch * segments + (segments - 1 - first - j if BACKWARD else first + j)
                tl.store(entry + s * elements + e, h, mask=inside)
            h = tl.exp2(a * step[j]) * h + added[j]


@triton.jit
def advance(h, a, u_at, delta_at, B_at, bias, n, d, in_range,
            N: tl.constexpr, NB: tl.constexpr, SOFTPLUS: tl.constexpr):  # fmt: skip
    """One step of the state."""
    step, _ = read_step(delta_at + d, bias, in_range, SOFTPLUS)
    x = tl.load(u_at + d, mask=in_range, other=0.0).to(tl.float32)
    h = tl.exp2(a * step[None, :]) * h + tl.load(B_at + n)[:, None] * (step * x)[None, :]
    if N != NB:
        h = tl.where((n < N)[:, None], h, 0.0)  # a non-finite input times a padded zero
    return h


@triton.jit
def retreat(h, dh, dA, dskip, dbias, a, skip, bias, t, in_range, n, d, dim, inputs, outputs, rows, times,
            STEPS: tl.constexpr, N: tl.constexpr, NB: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr,
            SOFTPLUS: tl.constexpr, REVERSE: tl.constexpr):  # fmt: skip
    """STEPS steps from position ``t`` on recomputed with their states in registers, then gone through backwards.

    ``h`` is the state before them; ``dh``, the gradient that flows into the state after them, leaves as the one
    before them. Tensors come with the offsets of their image and not as moved pointers, which would fill registers.
    """
    dout, u, delta, z, B, C = inputs
    du, ddelta, dz, dB, dC = outputs
    dout_row, u_row, delta_row, z_row, out_row, map_row, part_row = rows
    dout_time, u_time, delta_time, z_time = times
    sign: tl.constexpr = -1 if REVERSE else 1
    states = (h,)
    for j in tl.static_range(STEPS):
        s = t + sign * j
        h = advance(h, a, u + (u_row + s * u_time), delta + (delta_row + s * delta_time), B + (map_row + s) * NB, bias,
                    n, d, in_range, N, NB, SOFTPLUS)
        states = states + (h,)
    for k in tl.static_range(STEPS):
        before, after = states[STEPS - 1 - k], states[STEPS - k]
        s = t + sign * (STEPS - 1 - k)
        out_at = (out_row + s) * dim
        map_at = (map_row + s) * NB
        part_at = (part_row + s) * NB
        step, raw = read_step(delta + (delta_row + s * delta_time) + d, bias, in_range, SOFTPLUS)
        x = tl.load(u + (u_row + s * u_time) + d, mask=in_range, other=0.0).to(tl.float32)
        dy = tl.load(dout + (dout_row + s * dout_time) + d, mask=in_range, other=0.0).to(tl.float32)
        weight = tl.load(B + map_at + n)[:, None]
        reading = tl.load(C + map_at + n)[:, None]
        if HAS_Z:
            gate = tl.load(z + (z_row + s * z_time) + d, mask=in_range, other=0.0).to(tl.float32)
            sigmoid = tl.sigmoid(gate)
            y = tl.sum(after * reading, 0)
            if HAS_D:
                y += skip * x
            dgate = dy * y * sigmoid * (1.0 + gate * (1.0 - sigmoid))
            tl.store(dz + out_at + d, dgate.to(dz.dtype.element_ty), mask=in_range)
            dy *= gate * sigmoid
        tl.store(dC + part_at + n, tl.sum(after * dy[None, :], 1))
        dh += reading * dy[None, :]
        tl.store(dB + part_at + n, tl.sum(dh * (step * x)[None, :], 1))
        dinput = tl.sum(dh * weight, 0)
        dh *= tl.exp2(a * step[None, :])
        decayed = dh * before
        if N != NB:
            decayed = tl.where((n < N)[:, None], decayed, 0.0)
        dA += decayed * step[None, :]
        dx = step * dinput
        if HAS_D:
            dx += skip * dy
            dskip += dy * x
        tl.store(du + out_at + d, dx.to(du.dtype.element_ty), mask=in_range)
        dstep = x * dinput + LN2 * tl.sum(decayed * a, 0)
        if SOFTPLUS:
            dstep *= tl.sigmoid(raw)
        dbias += dstep
        tl.store(ddelta + out_at + d, dstep.to(ddelta.dtype.element_ty), mask=in_range)
    return dh, dA, dskip, dbias


def _backward(
    dout, u, delta, A, B, C, D, z, delta_bias, saved, entry, scratch,
    du, ddelta, dA, dB, dC, dD, dz, ddelta_bias,
    batch_size, dim, groups, length, segments, segment_length,
    dout_batch, dout_time, u_batch, u_time, delta_batch, delta_time, z_batch, z_time,
    N: tl.constexpr, NB: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, STEPS: tl.constexpr,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr, HAS_ENTRY: tl.constexpr,
):  # fmt: skip
    """All gradients. Sums over channels (dB, dC) are left per channel block, sums over time (dA, dD, ddelta_bias) per
    image and segment: the host adds them in a fixed order, so that equal inputs give equal bits.

    Chunk by chunk from the end: the states before every STEPS steps are recomputed from the saved one into scratch
    memory; then each group of STEPS steps is recomputed into registers and gone through backwards.
    """
    batch, segment, group, block, d, in_range, n, tile, in_tile, first, steps = place(
        dim, groups, length, segments, segment_length, N, NB, BLOCK)
    a = tl.load(A + tile, mask=in_tile, other=0.0) * LOG2E
    skip = tl.load(D + d, mask=in_range, other=0.0) if HAS_D else 0.0
    bias = tl.load(delta_bias + d, mask=in_range, other=0.0) if HAS_BIAS else 0.0

    dout_row, u_row, delta_row, z_row = batch * dout_batch, batch * u_batch, batch * delta_batch, batch * z_batch
    out_row = batch * length
    map_row = (batch * groups + group) * length
    part_row = ((block * batch_size + batch) * groups + group) * length
    inputs, outputs = (dout, u, delta, z, B, C), (du, ddelta, dz, dB, dC)
    rows = (dout_row, u_row, delta_row, z_row, out_row, map_row, part_row)
    times = (dout_time, u_time, delta_time, z_time)
    TILE: tl.constexpr = NB * BLOCK
    SLOTS: tl.constexpr = CHUNK // STEPS + STEPS - 1
    scratch_row = tl.program_id(0).to(tl.int64) * SLOTS
    slot = n[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    saved_row = batch * tl.cdiv(length, CHUNK)
    sign: tl.constexpr = -1 if REVERSE else 1

    dh = tl.zeros((NB, BLOCK), tl.float32)
    if HAS_ENTRY:
        dh = tl.load(entry + (batch * segments + segment) * N * dim + tile, mask=in_tile, other=0.0)
    dA_sum = tl.zeros((NB, BLOCK), tl.float32)
    dskip = tl.zeros((BLOCK,), tl.float32)
    dbias = tl.zeros((BLOCK,), tl.float32)
    for c in range(tl.cdiv(steps, CHUNK)):
        start = first + (tl.cdiv(steps, CHUNK) - 1 - c) * CHUNK
        inside = tl.minimum(CHUNK, length - start)
        full, rest = inside // STEPS, inside % STEPS
        t = position(start, length, REVERSE)
        u_at, delta_at, B_at = u + (u_row + t * u_time), delta + (delta_row + t * delta_time), B + (map_row + t) * NB
        h = tl.load(saved + (saved_row + start // CHUNK) * N * dim + tile, mask=in_tile, other=0.0)
        tl.debug_barrier()
        for k in range(full):
            tl.store(scratch + (scratch_row + k) * TILE + slot, h)
            if k + 1 < full + rest:
                for _ in tl.static_range(STEPS):
                    h = advance(h, a, u_at, delta_at, B_at, bias, n, d, in_range, N, NB, SOFTPLUS)
                    u_at += sign * u_time
                    delta_at += sign * delta_time
                    B_at += sign * NB
        for k in range(rest):
            tl.store(scratch + (scratch_row + full + k) * TILE + slot, h)
            h = advance(h, a, u_at, delta_at, B_at, bias, n, d, in_range, N, NB, SOFTPLUS)
            u_at += sign * u_time
            delta_at += sign * delta_time
            B_at += sign * NB
        tl.debug_barrier()
        for k in range(rest):
            i = rest - 1 - k
            dh, dA_sum, dskip, dbias = retreat(
                tl.load(scratch + (scratch_row + full + i) * TILE + slot), dh, dA_sum, dskip, dbias, a, skip, bias,
                t + sign * (full * STEPS + i), in_range, n, d, dim, inputs, outputs, rows, times,
                1, N, NB, HAS_D, HAS_Z, SOFTPLUS, REVERSE)
        for k in range(full):
            i = full - 1 - k
            dh, dA_sum, dskip, dbias = retreat(
                tl.load(scratch + (scratch_row + i) * TILE + slot), dh, dA_sum, dskip, dbias, a, skip, bias,
                t + sign * (i * STEPS), in_range, n, d, dim, inputs, outputs, rows, times,
                STEPS, N, NB, HAS_D, HAS_Z, SOFTPLUS, REVERSE)
    part = batch * segments + segment
    tl.store(dA + part * N * dim + tile, dA_sum, mask=in_tile)
    if HAS_D:
        tl.store(dD + part * dim + d, dskip, mask=in_range)
    if HAS_BIAS:
        tl.store(ddelta_bias + part * dim + d, dbias, mask=in_range)


# With many states, four lanes share those of a channel block: more exchange between lanes for the sums over states, far
# less for the sums over channels.
backward_kernel = triton.jit(_backward, do_not_specialize=VARYING)
backward_kernel_few_states = triton.jit(
    _backward, do_not_specialize=VARYING, do_not_specialize_on_alignment=STATE_TILES)


def backward_for(padded: int):
    """The backward kernel for NB = ``padded``."""
    return backward_kernel if padded >= 4 else backward_kernel_few_states
