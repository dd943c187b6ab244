"""All gradients."""

import triton
import triton.language as tl

from mmbackbones.ops.selective_scan.triton.kernels.parts import (
    LN2,
    LOG2E,
    STATE_TILES,
    VARYING,
    place,
    position,
    read_map,
    read_step,
    read_vector,
    write_map,
)


@triton.jit
def advance(
    b_h,
    b_A,
    b_bias,
    p_u,
    p_delta,
    p_B,
    i_t,
    lanes,
    N: tl.constexpr,
    NB: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    PADDED: tl.constexpr,
):
    """One step of the state (NB, BLOCK), at token ``i_t``."""
    o_d, m_d, o_n = lanes
    m_t = m_d & (i_t >= 0) if PADDED else m_d
    b_step, _b_raw = read_step(p_delta + o_d, b_bias, m_t, SOFTPLUS)
    b_x = tl.load(p_u + o_d, mask=m_t, other=0.0).to(tl.float32)
    b_B = read_map(p_B + o_n, i_t, PADDED)
    b_h = tl.exp2(b_A * b_step[None, :]) * b_h + b_B[:, None] * (b_step * b_x)[None, :]
    if N != NB:
        b_h = tl.where((o_n < N)[:, None], b_h, 0.0)  # a non-finite input times a padded zero
    return b_h


@triton.jit
def onward(
    b_h,
    pointers,
    i_at,
    b_A,
    b_bias,
    lanes,
    sequences,
    maps,
    order,
    rows,
    strides,
    N: tl.constexpr,
    NB: tl.constexpr,
    MAP_ROW: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    PADDED: tl.constexpr,
    sign: tl.constexpr,
):
    """:func:`advance` at position ``i_at``, and where the next position lies."""
    p_u, p_delta, p_B = pointers
    u_time, delta_time = strides[3], strides[5]
    i_t = i_at
    if order is not None:
        i_t = tl.load(order + i_at).to(tl.int64)
        p_u = sequences[1] + (rows[1] + i_t * u_time)
        p_delta = sequences[2] + (rows[2] + i_t * delta_time)
        p_B = maps[0] + (rows[5] + i_t) * MAP_ROW
    b_h = advance(b_h, b_A, b_bias, p_u, p_delta, p_B, i_t, lanes, N, NB, SOFTPLUS, PADDED)
    if order is None:
        p_u += sign * u_time
        p_delta += sign * delta_time
        p_B += sign * MAP_ROW
    return b_h, (p_u, p_delta, p_B), i_at + sign


@triton.jit
def retreat(
    b_h,
    sums,
    i_at,
    dim,
    lanes,
    weights,
    sequences,
    maps,
    skip,
    order,
    rows,
    strides,
    STEPS: tl.constexpr,
    N: tl.constexpr,
    NB: tl.constexpr,
    MAP_ROW: tl.constexpr,
    ADD: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    PADDED: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """STEPS steps from position ``i_at`` on recomputed with their states in registers, then gone through backwards.

    ``b_h`` is the state before them. Of ``sums``, the gradient that flows into the state after them leaves as the one
    before them. Tensors come with the offsets of their image and not as moved pointers, which would fill registers.
    """
    dout, u, delta, z, kept, du, ddelta, dz = sequences
    B, C, dB, dC = maps
    o_d, m_d, o_n = lanes
    b_A, b_D, b_bias = weights
    b_dh, b_dA, b_dD, b_dbias = sums
    dout_row, u_row, delta_row, z_row, out_row, map_row, part_row = rows
    dout_time, u_time, delta_time, z_time = strides[1], strides[3], strides[5], strides[7]
    sign: tl.constexpr = -1 if REVERSE else 1
    states, tokens = (b_h,), ()
    for j in tl.static_range(STEPS):
        i_t = i_at + sign * j
        if order is not None:
            i_t = tl.load(order + i_t).to(tl.int64)
        p_u, p_delta = u + (u_row + i_t * u_time), delta + (delta_row + i_t * delta_time)
        p_B = B + (map_row + i_t) * MAP_ROW
        b_h = advance(b_h, b_A, b_bias, p_u, p_delta, p_B, i_t, lanes, N, NB, SOFTPLUS, PADDED)
        states, tokens = states + (b_h,), tokens + (i_t,)
    for k in tl.static_range(STEPS):
        b_before, b_after = states[STEPS - 1 - k], states[STEPS - k]
        i_t = i_at + sign * (STEPS - 1 - k) if order is None else tokens[STEPS - 1 - k]
        m_t = m_d & (i_t >= 0) if PADDED else m_d
        o_out = (out_row + i_t) * dim
        o_map = (map_row + i_t) * MAP_ROW
        o_part = (part_row + i_t) * NB
        b_step, b_raw = read_step(delta + (delta_row + i_t * delta_time) + o_d, b_bias, m_t, SOFTPLUS)
        b_x = tl.load(u + (u_row + i_t * u_time) + o_d, mask=m_t, other=0.0).to(tl.float32)
        b_dy = tl.load(dout + (dout_row + i_t * dout_time) + o_d, mask=m_t, other=0.0).to(tl.float32)
        b_B = read_map(B + o_map + o_n, i_t, PADDED)[:, None]
        b_C = read_map(C + o_map + o_n, i_t, PADDED)[:, None]
        if z is not None:
            b_z = tl.load(z + (z_row + i_t * z_time) + o_d, mask=m_t, other=0.0).to(tl.float32)
            b_sigmoid = tl.sigmoid(b_z)
            if dz is not None:
                if kept is not None:
                    b_y = tl.load(kept + o_out + o_d, mask=m_t, other=0.0).to(tl.float32)
                else:
                    b_y = tl.sum(b_after * b_C, 0)
                    if skip is not None:
                        b_y += b_D * b_x
                b_dz = b_dy * b_y * b_sigmoid * (1.0 + b_z * (1.0 - b_sigmoid))
                tl.store(dz + o_out + o_d, b_dz.to(dz.dtype.element_ty), mask=m_t)
            b_dy *= b_z * b_sigmoid
        write_map(dC + o_part + o_n, tl.sum(b_after * b_dy[None, :], 1), i_t, PADDED)
        b_dh += b_C * b_dy[None, :]
        write_map(dB + o_part + o_n, tl.sum(b_dh * (b_step * b_x)[None, :], 1), i_t, PADDED)
        b_dinput = tl.sum(b_dh * b_B, 0)
        b_dh *= tl.exp2(b_A * b_step[None, :])
        b_decayed = b_dh * b_before
        if N != NB:
            b_decayed = tl.where((o_n < N)[:, None], b_decayed, 0.0)
        b_dA += b_decayed * b_step[None, :]
        b_dx = b_step * b_dinput
        if skip is not None:
            b_dx += b_D * b_dy
            b_dD += b_dy * b_x
        if ADD:
            b_dx += tl.load(du + o_out + o_d, mask=m_t, other=0.0)
        tl.store(du + o_out + o_d, b_dx.to(du.dtype.element_ty), mask=m_t)
        b_dstep = b_x * b_dinput + LN2 * tl.sum(b_decayed * b_A, 0)
        if SOFTPLUS:
            b_dstep *= tl.sigmoid(b_raw)
        b_dbias += b_dstep
        tl.store(ddelta + o_out + o_d, b_dstep.to(ddelta.dtype.element_ty), mask=m_t)
    return b_dh, b_dA, b_dD, b_dbias


def _backward(
    sequences,
    maps,
    vectors,
    order,
    A,
    saved,
    entry,
    scratch,
    dA,
    batch_size,
    dim,
    groups,
    length,
    tokens,
    segments,
    segment_length,
    strides,
    N: tl.constexpr,
    NB: tl.constexpr,
    MAP_ROW: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    STEPS: tl.constexpr,
    ADD: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    PADDED: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """All gradients. Sums over channels (dB, dC) are left per channel block, sums over time (dA, dD, ddelta_bias) per
    image and segment: the host adds them in a fixed order, so that equal inputs give equal bits.

    Chunk by chunk from the end: the states before every STEPS steps are recomputed from the saved one into scratch
    memory; then each group of STEPS steps is recomputed into registers and gone through backwards.

    dz, if it is written, has the output before the gate from ``kept``, which the forward pass left, or else from the
    recomputed states. ADD adds to du what stands there.

    Tuples: sequences (dout, u, delta, z, kept, du, ddelta, dz), maps (B, C, dB, dC), vectors (D, delta_bias, dD,
    ddelta_bias), strides of batch and time of dout, u, delta and z.
    """
    _dout, u, delta, _z, _kept, _du, _ddelta, _dz = sequences
    D, delta_bias, dD, ddelta_bias = vectors
    u_time, delta_time = strides[3], strides[5]
    i_b, i_segment, i_g, i_block, lanes, o_tile, m_tile, first, steps = place(
        dim, groups, length, segments, segment_length, N, NB, BLOCK
    )
    o_d, m_d, o_n = lanes
    b_A = tl.load(A + o_tile, mask=m_tile, other=0.0) * LOG2E
    b_D, b_bias = read_vector(D, lanes, BLOCK), read_vector(delta_bias, lanes, BLOCK)
    weights = (b_A, b_D, b_bias)

    map_row = (i_b * groups + i_g) * tokens
    part_row = ((i_block * batch_size + i_b) * groups + i_g) * tokens
    u_row, delta_row = i_b * strides[2], i_b * strides[4]
    rows = (i_b * strides[0], u_row, delta_row, i_b * strides[6], i_b * tokens, map_row, part_row)
    TILE: tl.constexpr = NB * BLOCK
    SLOTS: tl.constexpr = CHUNK // STEPS + STEPS - 1
    scratch_row = tl.program_id(0).to(tl.int64) * SLOTS
    o_slot = o_n[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    saved_row = i_b * tl.cdiv(length, CHUNK)
    sign: tl.constexpr = -1 if REVERSE else 1

    b_dh = tl.zeros((NB, BLOCK), tl.float32)
    if entry is not None:
        b_dh = tl.load(entry + (i_b * segments + i_segment) * N * dim + o_tile, mask=m_tile, other=0.0)
    zeros = tl.zeros((BLOCK,), tl.float32)
    sums = (b_dh, tl.zeros((NB, BLOCK), tl.float32), zeros, zeros)
    for c in range(tl.cdiv(steps, CHUNK)):
        start = first + (tl.cdiv(steps, CHUNK) - 1 - c) * CHUNK
        inside = tl.minimum(CHUNK, length - start)
        full, rest = inside // STEPS, inside % STEPS
        i_start = position(start, length, REVERSE)
        i_t = i_start
        pointers = (
            u + (u_row + i_t * u_time),
            delta + (delta_row + i_t * delta_time),
            maps[0] + (map_row + i_t) * MAP_ROW,
        )
        b_h = tl.load(saved + (saved_row + start // CHUNK) * N * dim + o_tile, mask=m_tile, other=0.0)
        tl.debug_barrier()
        for k in range(full):
            tl.store(scratch + (scratch_row + k) * TILE + o_slot, b_h)
            if k + 1 < full + rest:
                for _ in tl.static_range(STEPS):
                    b_h, pointers, i_t = onward(
                        b_h, pointers, i_t, b_A, b_bias, lanes, sequences, maps, order, rows, strides,
                        N, NB, MAP_ROW, SOFTPLUS, PADDED, sign,
                    )  # fmt: skip
        for k in range(rest):
            tl.store(scratch + (scratch_row + full + k) * TILE + o_slot, b_h)
            b_h, pointers, i_t = onward(
                b_h, pointers, i_t, b_A, b_bias, lanes, sequences, maps, order, rows, strides,
                N, NB, MAP_ROW, SOFTPLUS, PADDED, sign,
            )  # fmt: skip
        tl.debug_barrier()
        for k in range(rest):
            i = rest - 1 - k
            b_h = tl.load(scratch + (scratch_row + full + i) * TILE + o_slot)
            sums = retreat(
                b_h, sums, i_start + sign * (full * STEPS + i), dim, lanes, weights, sequences, maps, D, order, rows,
                strides, 1, N, NB, MAP_ROW, ADD, SOFTPLUS, PADDED, REVERSE,
            )  # fmt: skip
        for k in range(full):
            i = full - 1 - k
            b_h = tl.load(scratch + (scratch_row + i) * TILE + o_slot)
            sums = retreat(
                b_h, sums, i_start + sign * (i * STEPS), dim, lanes, weights, sequences, maps, D, order, rows,
                strides, STEPS, N, NB, MAP_ROW, ADD, SOFTPLUS, PADDED, REVERSE,
            )  # fmt: skip
    part = i_b * segments + i_segment
    tl.store(dA + part * N * dim + o_tile, sums[1], mask=m_tile)
    if dD is not None:
        tl.store(dD + part * dim + o_d, sums[2], mask=m_d)
    if ddelta_bias is not None:
        tl.store(ddelta_bias + part * dim + o_d, sums[3], mask=m_d)


# With many states, four lanes share those of a channel block: more exchange between lanes for the sums over states, far
# less for the sums over channels.
backward_kernel = triton.jit(_backward, do_not_specialize=VARYING)
backward_kernel_few_states = triton.jit(
    _backward, do_not_specialize=VARYING, do_not_specialize_on_alignment=STATE_TILES
)


def backward_for(padded: int):
    """The backward kernel for NB = ``padded``."""
    return backward_kernel if padded >= 4 else backward_kernel_few_states
