"""Sequences cut into segments that run side by side: what each adds, and what enters each."""

import triton
import triton.language as tl

from mmbackbones.ops.selective_scan.triton.kernels.parts import (
    LOG2E,
    STATE_TILES,
    VARYING,
    convolved,
    place,
    position,
    projected,
    read_map,
    read_step,
    read_step_weight,
    read_taps,
    read_vector,
    softplus,
    window_before,
)


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=STATE_TILES)
def segment_kernel(
    sequences,
    weight,
    vectors,
    order,
    A,
    step_weight,
    local,
    total_step,
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
    RANK: tl.constexpr,
    TILE: tl.constexpr,
    TAPS: tl.constexpr,
    PADDED: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
    BACKWARD: tl.constexpr,
):
    """What a segment adds to what flows through it, from zero, and the sum of its steps, which gives its decay.

    Forward: the state, x = u, weight = B. BACKWARD: the gradient of the state, from the segment's end to its start,
    x = dout, weight = C.

    Tuples: sequences (x, delta, z), vectors (delta_bias, conv_weight, conv_bias), strides of batch and time of the
    sequences.
    """
    x, delta, z = sequences
    delta_bias, conv_weight, conv_bias = vectors
    x_batch, x_time, delta_batch, delta_time, z_batch, z_time = strides
    i_b, i_segment, i_g, _i_block, lanes, o_tile, m_tile, first, steps = place(
        dim, groups, length, segments, segment_length, N, NB, BLOCK
    )
    o_d, m_d, o_n = lanes
    b_A = tl.load(A + o_tile, mask=m_tile, other=0.0) * LOG2E
    b_bias = read_vector(delta_bias, lanes, BLOCK)
    b_tiles = read_step_weight(step_weight, dim, lanes, RANK, TILE)

    x_row, delta_row, z_row = i_b * x_batch, i_b * delta_batch, i_b * z_batch
    map_row = (i_b * groups + i_g) * tokens
    i_at = position(first + steps - 1 if BACKWARD else first, length, REVERSE)
    sign = 1 if REVERSE == BACKWARD else -1
    b_taps, b_offset = read_taps(conv_weight, dim, lanes, TAPS), read_vector(conv_bias, lanes, BLOCK)
    b_window = window_before(first, length, x, x_row, x_time, order, lanes, TAPS, REVERSE)

    b_h = tl.zeros((NB, BLOCK), tl.float32)
    b_total = tl.zeros((BLOCK,), tl.float32)
    for _ in tl.range(steps, loop_unroll_factor=4):
        i_t, m_t = i_at, m_d
        if order is not None:
            i_t = tl.load(order + i_at).to(tl.int64)
            if PADDED:
                m_t = m_d & (i_t >= 0)
        if RANK:
            b_step = projected(delta + (map_row + i_t) * MAP_ROW, i_t, b_tiles, b_bias, RANK, TILE, PADDED)
            b_step = softplus(b_step) if SOFTPLUS else b_step
        else:
            b_step, _b_raw = read_step(delta + (delta_row + i_t * delta_time) + o_d, b_bias, m_t, SOFTPLUS)
        b_x = tl.load(x + (x_row + i_t * x_time) + o_d, mask=m_t, other=0.0).to(tl.float32)
        if TAPS:
            b_window = b_window + (b_x,)
            b_x = convolved(b_window, b_taps, b_offset, 0, TAPS)
            b_x *= tl.sigmoid(b_x)
            b_window = b_window[1:]
        b_decay = tl.exp2(b_A * b_step[None, :])
        b_weight = read_map(weight + (map_row + i_t) * MAP_ROW + o_n, i_t, PADDED)[:, None]
        if BACKWARD:
            if z is not None:
                b_z = tl.load(z + (z_row + i_t * z_time) + o_d, mask=m_t, other=0.0).to(tl.float32)
                b_x *= b_z * tl.sigmoid(b_z)
            b_h = b_decay * (b_h + b_weight * b_x[None, :])
        else:
            b_h = b_decay * b_h + b_weight * (b_step * b_x)[None, :]
        b_total += b_step
        i_at += sign
    tl.store(local + (i_b * segments + i_segment) * N * dim + o_tile, b_h, mask=m_tile)
    tl.store(total_step + (i_b * segments + i_segment) * dim + o_d, b_total, mask=m_d)


@triton.jit(do_not_specialize=VARYING)
def carry_kernel(
    A,
    local,
    total_step,
    last_state,
    entry,
    dim,
    elements,
    segments,
    BACKWARD: tl.constexpr,
    BLOCK: tl.constexpr = 128,
    AHEAD: tl.constexpr = 8,
):
    """What enters each segment, from what each adds; ``last_state`` enters the first one visited. Elements: N x D."""
    blocks = tl.cdiv(elements, BLOCK)
    i_b = (tl.program_id(0) // blocks).to(tl.int64)
    o_e = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    m_e = o_e < elements
    b_A = tl.load(A + o_e, mask=m_e, other=0.0) * LOG2E
    b_h = tl.zeros((BLOCK,), tl.float32)
    if last_state is not None:
        b_h = tl.load(last_state + i_b * elements + o_e, mask=m_e, other=0.0)
    for first in range(0, segments, AHEAD):
        # Nothing here depends on the carry: AHEAD reads are in flight together.
        added, steps = (), ()
        for j in tl.static_range(AHEAD):
            i_s = tl.minimum(first + j, segments - 1)
            i_s = i_b * segments + (segments - 1 - i_s if BACKWARD else i_s)
            added = added + (tl.load(local + i_s * elements + o_e, mask=m_e, other=0.0),)
            steps = steps + (tl.load(total_step + i_s * dim + o_e % dim, mask=m_e, other=0.0),)
        for j in tl.static_range(AHEAD):
            if first + j < segments:
                i_s = i_b * segments + (segments - 1 - first - j if BACKWARD else first + j)
                tl.store(entry + i_s * elements + o_e, b_h, mask=m_e)
            b_h = tl.exp2(b_A * steps[j]) * b_h + added[j]
