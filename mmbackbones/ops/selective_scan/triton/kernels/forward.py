"""Output and last state."""

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
    read_step_weight,
    read_taps,
    read_vector,
    softplus,
    window_before,
)


@triton.jit
def visit(
    b_h,
    b_window,
    pointers,
    i_s,
    length,
    dim,
    lanes,
    weights,
    sequences,
    maps,
    skip,
    order,
    rows,
    strides,
    COUNT: tl.constexpr,
    N: tl.constexpr,
    NB: tl.constexpr,
    MAP_ROW: tl.constexpr,
    RANK: tl.constexpr,
    TILE: tl.constexpr,
    TAPS: tl.constexpr,
    PADDED: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """COUNT steps from step ``i_s`` on: read, computed, written. A load is never moved over a store, so reads go first.

    ``pointers`` say where step ``i_s`` lies in u, delta, z, the output and the maps; an order says so for every step
    instead.
    """
    u, delta, z, total, kept, out = sequences
    B, C = maps
    o_d, m_d, o_n = lanes
    b_A, b_D, b_bias, b_tiles, b_taps, b_offset = weights
    u_row, delta_row, z_row, out_row, map_row = rows
    u_time, delta_time, z_time = strides[1], strides[3], strides[5]
    sign: tl.constexpr = -1 if REVERSE else 1
    p_u, p_delta, p_z, o_out, o_map = pointers
    tokens, masks, outs, rows_of = (), (), (), ()
    deltas, gates, sums, ys = (), (), (), ()
    for j in tl.static_range(COUNT):
        i_t, m_t = i_s.to(tl.int64), m_d
        if order is not None:
            i_t = tl.load(order + position(i_s + j, length, REVERSE)).to(tl.int64)
            if PADDED:
                m_t = m_d & (i_t >= 0)
            p_u = u + (u_row + i_t * u_time) + o_d
            p_delta = delta + (delta_row + i_t * delta_time) + o_d
            if z is not None:
                p_z = z + (z_row + i_t * z_time) + o_d
            o_out, o_map = (out_row + i_t) * dim + o_d, map_row + i_t
        b_window = b_window + (tl.load(p_u, mask=m_t, other=0.0).to(tl.float32),)
        if RANK == 0:
            deltas = deltas + (tl.load(p_delta, mask=m_t, other=0.0),)
        if z is not None:
            gates = gates + (tl.load(p_z, mask=m_t, other=0.0).to(tl.float32),)
        if total is not None:
            sums = sums + (tl.load(total + o_out, mask=m_t, other=0.0),)
        tokens, masks, outs, rows_of = tokens + (i_t,), masks + (m_t,), outs + (o_out,), rows_of + (o_map,)
        if order is None:
            p_u += sign * u_time
            p_delta += sign * delta_time
            if z is not None:
                p_z += sign * z_time
            o_out += sign * dim
            o_map += sign
    for j in tl.static_range(COUNT):
        if RANK:
            b_step = projected(delta + rows_of[j] * MAP_ROW, tokens[j], b_tiles, b_bias, RANK, TILE, PADDED)
        else:
            b_step = deltas[j].to(tl.float32) + b_bias
        if SOFTPLUS:
            b_step = softplus(b_step)
        b_x = b_window[j]
        if TAPS:
            b_x = convolved(b_window, b_taps, b_offset, j, TAPS)
            b_x *= tl.sigmoid(b_x)
        b_B = read_map(B + rows_of[j] * MAP_ROW + o_n, tokens[j], PADDED)
        b_h = tl.exp2(b_A * b_step[None, :]) * b_h + b_B[:, None] * (b_step * b_x)[None, :]
        if N != NB:
            b_h = tl.where((o_n < N)[:, None], b_h, 0.0)  # a non-finite input times a padded zero
        b_y = tl.sum(b_h * read_map(C + rows_of[j] * MAP_ROW + o_n, tokens[j], PADDED)[:, None], 0)
        if skip is not None:
            b_y += b_D * b_x
        if total is not None:
            b_y += sums[j]
        ys = ys + (b_y,)
    for j in tl.static_range(COUNT):
        b_y = ys[j]
        if kept is not None:
            tl.store(kept + outs[j], b_y.to(kept.dtype.element_ty), mask=masks[j])
        if z is not None:
            b_y *= gates[j] * tl.sigmoid(gates[j])
        tl.store(out + outs[j], b_y.to(out.dtype.element_ty), mask=masks[j])
    return b_h, b_window[COUNT:], (p_u, p_delta, p_z, o_out, o_map)


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=STATE_TILES)
def forward_kernel(
    sequences,
    maps,
    vectors,
    order,
    A,
    step_weight,
    last_state,
    saved,
    entry,
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
    AHEAD: tl.constexpr,
    RANK: tl.constexpr,
    TILE: tl.constexpr,
    TAPS: tl.constexpr,
    PADDED: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """Output and last state; ``saved`` takes the states before every CHUNK steps, for the backward pass.

    ``total`` is added to the output, ``kept`` takes the sum also before the gate; ``entry`` is what enters segments.

    Tuples: sequences (u, delta, z, total, kept, out), maps (B, C), vectors (D, delta_bias, conv_weight, conv_bias),
    strides of batch and time of u, delta and z.
    """
    u, delta, z, _total, _kept, _out = sequences
    D, delta_bias, conv_weight, conv_bias = vectors
    u_batch, u_time, delta_batch, delta_time, z_batch, z_time = strides
    i_b, i_segment, i_g, _i_block, lanes, o_tile, m_tile, first, steps = place(
        dim, groups, length, segments, segment_length, N, NB, BLOCK
    )
    o_d = lanes[0]
    b_A = tl.load(A + o_tile, mask=m_tile, other=0.0) * LOG2E
    b_D, b_bias = read_vector(D, lanes, BLOCK), read_vector(delta_bias, lanes, BLOCK)
    b_tiles = read_step_weight(step_weight, dim, lanes, RANK, TILE)
    b_taps, b_offset = read_taps(conv_weight, dim, lanes, TAPS), read_vector(conv_bias, lanes, BLOCK)
    weights = (b_A, b_D, b_bias, b_tiles, b_taps, b_offset)

    rows = (i_b * u_batch, i_b * delta_batch, i_b * z_batch, i_b * tokens, (i_b * groups + i_g) * tokens)
    saved_row = i_b * tl.cdiv(length, CHUNK) + first // CHUNK
    b_window = window_before(first, length, u, rows[0], u_time, order, lanes, TAPS, REVERSE)
    i_t = position(first, length, REVERSE)
    p_u = u + (rows[0] + i_t * u_time) + o_d
    p_z = p_u
    if z is not None:
        p_z = z + (rows[2] + i_t * z_time) + o_d
    p_delta = delta + (rows[1] + i_t * delta_time) + o_d
    pointers = (p_u, p_delta, p_z, (rows[3] + i_t) * dim + o_d, rows[4] + i_t)

    b_h = tl.zeros((NB, BLOCK), tl.float32)
    if entry is not None:
        b_h = tl.load(entry + (i_b * segments + i_segment) * N * dim + o_tile, mask=m_tile, other=0.0)
    for i_chunk in range(tl.cdiv(steps, CHUNK)):
        i_s = first + i_chunk * CHUNK
        count = tl.minimum(CHUNK, first + steps - i_s)
        if saved is not None:
            tl.store(saved + (saved_row + i_chunk) * N * dim + o_tile, b_h, mask=m_tile)
        for _ in range(count // AHEAD):
            b_h, b_window, pointers = visit(
                b_h, b_window, pointers, i_s, length, dim, lanes, weights, sequences, maps, D, order, rows, strides,
                AHEAD, N, NB, MAP_ROW, RANK, TILE, TAPS, PADDED, SOFTPLUS, REVERSE,
            )  # fmt: skip
            i_s += AHEAD
        for _ in range(count % AHEAD):
            b_h, b_window, pointers = visit(
                b_h, b_window, pointers, i_s, length, dim, lanes, weights, sequences, maps, D, order, rows, strides,
                1, N, NB, MAP_ROW, RANK, TILE, TAPS, PADDED, SOFTPLUS, REVERSE,
            )  # fmt: skip
            i_s += 1
    if first + steps == length:
        tl.store(last_state + i_b * N * dim + o_tile, b_h, mask=m_tile)
