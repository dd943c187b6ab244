"""Triton kernels of the selective scan; `host.py` beside this file allocates, launches and reduces.

One program owns ``BLOCK`` channels of one group of one image and one segment of the sequence, and walks through time
with the state of these channels, an (N, BLOCK) tile, in registers: one lane per channel, all N states in the lane, so
that the sum over states needs no exchange between lanes; four lanes to four channels in the backward with more than
two states, which sums over channels as well. (An associative scan over time costs six times the instructions.)

Layouts: sequences (batch, tokens, D) with channels contiguous and free strides for batch and time; B and C (batch, G,
tokens, NB) float32 in rows of MAP_ROW elements; A and everything state-like (..., N, D) float32. NB is N rounded up to
a power of two, the rest of B and C being zero. ``i`` counts the ``length`` steps of the scan, ``t`` is the token in
memory; they run against each other when REVERSE, and with an order ``t`` is looked up: -1 is a padding slot (PADDED:
there are some), which reads zeros and writes nothing, but lets the state decay.

The step comes as (batch, tokens, D), or with RANK as (batch, G, tokens, RANK), in such rows too, times a weight (RANK,
D); with TAPS the input is the SiLU of a causal convolution along the scan. Directions over one map come one launch
after the other: ADD adds what the earlier ones left.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)

# L differs with every image and must not make a new kernel. The state-like tensors are declared unaligned because
# vectorised access would spread the states of one channel over several lanes.
VARYING = ['length', 'tokens', 'segments', 'segment_length', 'batch_size', 'groups']
STATE_TILES = ['A', 'step_weight', 'saved', 'last_state', 'entry', 'local', 'dA', 'scratch']


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


@triton.jit
def token(i, length, order, HAS_ORDER: tl.constexpr, REVERSE: tl.constexpr):
    """Where step ``i`` finds its token, -1 in a padding slot."""
    t = position(i, length, REVERSE)
    if HAS_ORDER:
        t = tl.load(order + t).to(tl.int64)
    return t


@triton.jit
def window_before(
    first,
    length,
    x,
    x_row,
    x_time,
    order,
    d,
    in_range,
    TAPS: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """The TAPS - 1 inputs before step ``first``, which the convolution at that step sees."""
    window = ()
    for w in tl.static_range(1, TAPS):
        i = first - TAPS + w
        there = i >= 0
        t = token(tl.maximum(i, 0), length, order, HAS_ORDER, REVERSE)
        if HAS_ORDER:
            there = there & (t >= 0)
        window = window + (tl.load(x + (x_row + t * x_time) + d, mask=in_range & there, other=0.0).to(tl.float32),)
    return window


@triton.jit
def read_taps(weight, bias, dim, d, in_range, TAPS: tl.constexpr, HAS_BIAS: tl.constexpr):
    taps, offset = (), tl.zeros_like(in_range).to(tl.float32)
    for w in tl.static_range(TAPS):
        taps = taps + (tl.load(weight + w * dim + d, mask=in_range, other=0.0),)
    if HAS_BIAS:
        offset = tl.load(bias + d, mask=in_range, other=0.0)
    return taps, offset


@triton.jit
def convolved(window, taps, offset, first: tl.constexpr, TAPS: tl.constexpr):
    """The convolution over ``window`` from its entry ``first`` on, before the SiLU."""
    y = taps[0] * window[first] + offset
    for w in tl.static_range(1, TAPS):
        y += taps[w] * window[first + w]
    return y


@triton.jit
def read_step_weight(weight, dim, d, in_range, RANK: tl.constexpr, TILE: tl.constexpr):
    """(RANK, D) in tiles of TILE rows, few enough for each lane to hold them all."""
    tiles = ()
    for k in tl.static_range(RANK // TILE):
        row = k * TILE + tl.arange(0, TILE)[:, None]
        tiles = tiles + (tl.load(weight + row * dim + d[None, :], mask=in_range[None, :], other=0.0),)
    return tiles


@triton.jit
def read_map(at, t, PADDED: tl.constexpr):
    """A row of what is projected from token ``t``."""
    return tl.load(at, mask=t >= 0, other=0.0) if PADDED else tl.load(at)


@triton.jit
def write_map(at, x, t, PADDED: tl.constexpr):
    if PADDED:
        tl.store(at, x, mask=t >= 0)
    else:
        tl.store(at, x)


@triton.jit
def projected(low_at, t, tiles, bias, RANK: tl.constexpr, TILE: tl.constexpr, PADDED: tl.constexpr):
    """What goes into the step's softplus, from its low rank."""
    raw = tl.zeros_like(bias)
    for k in tl.static_range(RANK // TILE):
        low_rank = read_map(low_at + (k * TILE + tl.arange(0, TILE)), t, PADDED)
        raw += tl.sum(tiles[k] * low_rank[:, None], 0)
    return raw + bias


@triton.jit
def visit(
    h,
    window,
    ats,
    i,
    length,
    d,
    in_range,
    n,
    dim,
    a,
    skip,
    bias,
    tiles,
    taps,
    offset,
    u,
    delta,
    B,
    C,
    z,
    order,
    total,
    kept,
    out,
    rows,
    times,
    COUNT: tl.constexpr,
    N: tl.constexpr,
    NB: tl.constexpr,
    MAP_ROW: tl.constexpr,
    RANK: tl.constexpr,
    TILE: tl.constexpr,
    TAPS: tl.constexpr,
    HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    PADDED: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
    ADD: tl.constexpr,
    KEEP: tl.constexpr,
):
    """COUNT steps from step ``i`` on: read, computed, written. A load is never moved over a store, so reads go first.

    ``ats`` says where step ``i`` lies in u, delta, z, the output and the maps; an order says so for every step instead.
    """
    sign: tl.constexpr = -1 if REVERSE else 1
    u_at, delta_at, z_at, out_at, map_at = ats
    tokens, masks, outs, maps = (), (), (), ()
    deltas, gates, sums, ys = (), (), (), ()
    for j in tl.static_range(COUNT):
        s, mask = i.to(tl.int64), in_range
        if HAS_ORDER:
            s = tl.load(order + position(i + j, length, REVERSE)).to(tl.int64)
            if PADDED:
                mask = in_range & (s >= 0)
            u_at, delta_at, z_at, out_at, map_at = (
                u + (rows[0] + s * times[0]) + d,
                delta + (rows[1] + s * times[1]) + d,
                z + (rows[2] + s * times[2]) + d,
                (rows[3] + s) * dim + d,
                rows[4] + s,
            )
        window = window + (tl.load(u_at, mask=mask, other=0.0).to(tl.float32),)
        if RANK == 0:
            deltas = deltas + (tl.load(delta_at, mask=mask, other=0.0),)
        if HAS_Z:
            gates = gates + (tl.load(z_at, mask=mask, other=0.0).to(tl.float32),)
        if ADD:
            sums = sums + (tl.load(total + out_at, mask=mask, other=0.0),)
        tokens, masks, outs, maps = tokens + (s,), masks + (mask,), outs + (out_at,), maps + (map_at,)
        if not HAS_ORDER:
            u_at += sign * times[0]
            delta_at += sign * times[1]
            z_at += sign * times[2]
            out_at += sign * dim
            map_at += sign
    for j in tl.static_range(COUNT):
        if RANK:
            step = projected(delta + maps[j] * MAP_ROW, tokens[j], tiles, bias, RANK, TILE, PADDED)
        else:
            step = deltas[j].to(tl.float32) + bias
        if SOFTPLUS:
            step = softplus(step)
        x = window[j]
        if TAPS:
            x = convolved(window, taps, offset, j, TAPS)
            x *= tl.sigmoid(x)
        b = read_map(B + maps[j] * MAP_ROW + n, tokens[j], PADDED)
        h = tl.exp2(a * step[None, :]) * h + b[:, None] * (step * x)[None, :]
        if N != NB:
            h = tl.where((n < N)[:, None], h, 0.0)  # a non-finite input times a padded zero
        y = tl.sum(h * read_map(C + maps[j] * MAP_ROW + n, tokens[j], PADDED)[:, None], 0)
        if HAS_D:
            y += skip * x
        if ADD:
            y += sums[j]
        ys = ys + (y,)
    for j in tl.static_range(COUNT):
        y = ys[j]
        if KEEP:
            tl.store(kept + outs[j], y.to(kept.dtype.element_ty), mask=masks[j])
        if HAS_Z:
            y *= gates[j] * tl.sigmoid(gates[j])
        tl.store(out + outs[j], y.to(out.dtype.element_ty), mask=masks[j])
    return h, window[COUNT:], (u_at, delta_at, z_at, out_at, map_at)


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=STATE_TILES)
def forward_kernel(
    u,
    delta,
    step_weight,
    A,
    B,
    C,
    D,
    z,
    delta_bias,
    conv_weight,
    conv_bias,
    order,
    total,
    kept,
    out,
    last_state,
    saved,
    entry,
    dim,
    groups,
    length,
    tokens,
    segments,
    segment_length,
    u_batch,
    u_time,
    delta_batch,
    delta_time,
    z_batch,
    z_time,
    N: tl.constexpr,
    NB: tl.constexpr,
    MAP_ROW: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    AHEAD: tl.constexpr,
    RANK: tl.constexpr,
    TILE: tl.constexpr,
    TAPS: tl.constexpr,
    HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_CONV_BIAS: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    PADDED: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
    ADD: tl.constexpr,
    KEEP: tl.constexpr,
    SAVE: tl.constexpr,
    SEGMENTED: tl.constexpr,
):
    """Output and last state; with SAVE the states before every CHUNK steps, for the backward pass.

    ADD adds ``total`` to the output, KEEP writes the sum also before the gate.
    """
    batch, segment, group, _, d, in_range, n, tile, in_tile, first, steps = place(
        dim, groups, length, segments, segment_length, N, NB, BLOCK
    )
    a = tl.load(A + tile, mask=in_tile, other=0.0) * LOG2E
    zero = tl.zeros((BLOCK,), tl.float32)
    skip = tl.load(D + d, mask=in_range, other=0.0) if HAS_D else zero
    bias = tl.load(delta_bias + d, mask=in_range, other=0.0) if HAS_BIAS else zero
    tiles = read_step_weight(step_weight, dim, d, in_range, RANK, TILE)

    u_row, delta_row, z_row, out_row = batch * u_batch, batch * delta_batch, batch * z_batch, batch * tokens
    map_row = (batch * groups + group) * tokens
    rows, times = (u_row, delta_row, z_row, out_row, map_row), (u_time, delta_time, z_time)
    saved_row = batch * tl.cdiv(length, CHUNK) + first // CHUNK
    taps, offset = read_taps(conv_weight, conv_bias, dim, d, in_range, TAPS, HAS_CONV_BIAS)
    window = window_before(first, length, u, u_row, u_time, order, d, in_range, TAPS, HAS_ORDER, REVERSE)
    t = position(first, length, REVERSE)
    ats = (
        u + (u_row + t * u_time) + d,
        delta + (delta_row + t * delta_time) + d,
        z + (z_row + t * z_time) + d,
        (out_row + t) * dim + d,
        map_row + t,
    )

    h = tl.zeros((NB, BLOCK), tl.float32)
    if SEGMENTED:
        h = tl.load(entry + (batch * segments + segment) * N * dim + tile, mask=in_tile, other=0.0)
    for c in range(tl.cdiv(steps, CHUNK)):
        i = first + c * CHUNK
        count = tl.minimum(CHUNK, first + steps - i)
        if SAVE:
            tl.store(saved + (saved_row + c) * N * dim + tile, h, mask=in_tile)
        for _ in range(count // AHEAD):
            h, window, ats = visit(
                h,
                window,
                ats,
                i,
                length,
                d,
                in_range,
                n,
                dim,
                a,
                skip,
                bias,
                tiles,
                taps,
                offset,
                u,
                delta,
                B,
                C,
                z,
                order,
                total,
                kept,
                out,
                rows,
                times,
                AHEAD,
                N,
                NB,
                MAP_ROW,
                RANK,
                TILE,
                TAPS,
                HAS_D,
                HAS_Z,
                HAS_ORDER,
                PADDED,
                SOFTPLUS,
                REVERSE,
                ADD,
                KEEP,
            )
            i += AHEAD
        for _ in range(count % AHEAD):
            h, window, ats = visit(
                h,
                window,
                ats,
                i,
                length,
                d,
                in_range,
                n,
                dim,
                a,
                skip,
                bias,
                tiles,
                taps,
                offset,
                u,
                delta,
                B,
                C,
                z,
                order,
                total,
                kept,
                out,
                rows,
                times,
                1,
                N,
                NB,
                MAP_ROW,
                RANK,
                TILE,
                TAPS,
                HAS_D,
                HAS_Z,
                HAS_ORDER,
                PADDED,
                SOFTPLUS,
                REVERSE,
                ADD,
                KEEP,
            )
            i += 1
    if first + steps == length:
        tl.store(last_state + batch * N * dim + tile, h, mask=in_tile)


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=STATE_TILES)
def segment_kernel(
    x,
    delta,
    step_weight,
    A,
    weight,
    z,
    delta_bias,
    conv_weight,
    conv_bias,
    order,
    local,
    total_step,
    dim,
    groups,
    length,
    tokens,
    segments,
    segment_length,
    x_batch,
    x_time,
    delta_batch,
    delta_time,
    z_batch,
    z_time,
    N: tl.constexpr,
    NB: tl.constexpr,
    MAP_ROW: tl.constexpr,
    BLOCK: tl.constexpr,
    RANK: tl.constexpr,
    TILE: tl.constexpr,
    TAPS: tl.constexpr,
    HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_CONV_BIAS: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    PADDED: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
    BACKWARD: tl.constexpr,
):
    """What a segment adds to what flows through it, from zero, and the sum of its steps, which gives its decay.

    Forward: the state, x = u, weight = B. BACKWARD: the gradient of the state, from the segment's end to its start,
    x = dout, weight = C.
    """
    batch, segment, group, _, d, in_range, n, tile, in_tile, first, steps = place(
        dim, groups, length, segments, segment_length, N, NB, BLOCK
    )
    a = tl.load(A + tile, mask=in_tile, other=0.0) * LOG2E
    bias = tl.load(delta_bias + d, mask=in_range, other=0.0) if HAS_BIAS else tl.zeros((BLOCK,), tl.float32)
    tiles = read_step_weight(step_weight, dim, d, in_range, RANK, TILE)

    x_row, delta_row, z_row = batch * x_batch, batch * delta_batch, batch * z_batch
    map_row = (batch * groups + group) * tokens
    t = position(first + steps - 1 if BACKWARD else first, length, REVERSE)
    sign = 1 if REVERSE == BACKWARD else -1
    taps, offset = read_taps(conv_weight, conv_bias, dim, d, in_range, TAPS, HAS_CONV_BIAS)
    window = window_before(first, length, x, x_row, x_time, order, d, in_range, TAPS, HAS_ORDER, REVERSE)

    h = tl.zeros((NB, BLOCK), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for _ in tl.range(steps, loop_unroll_factor=4):
        s, mask = t, in_range
        if HAS_ORDER:
            s = tl.load(order + t).to(tl.int64)
            if PADDED:
                mask = in_range & (s >= 0)
        if RANK:
            step = projected(delta + (map_row + s) * MAP_ROW, s, tiles, bias, RANK, TILE, PADDED)
            step = softplus(step) if SOFTPLUS else step
        else:
            step, _slope = read_step(delta + (delta_row + s * delta_time) + d, bias, mask, SOFTPLUS)
        value = tl.load(x + (x_row + s * x_time) + d, mask=mask, other=0.0).to(tl.float32)
        if TAPS:
            window = window + (value,)
            value = convolved(window, taps, offset, 0, TAPS)
            value *= tl.sigmoid(value)
            window = window[1:]
        decay = tl.exp2(a * step[None, :])
        wide = read_map(weight + (map_row + s) * MAP_ROW + n, s, PADDED)[:, None]
        if BACKWARD:
            if HAS_Z:
                gate = tl.load(z + (z_row + s * z_time) + d, mask=mask, other=0.0).to(tl.float32)
                value *= gate * tl.sigmoid(gate)
            h = decay * (h + wide * value[None, :])
        else:
            h = decay * h + wide * (step * value)[None, :]
        total += step
        t += sign
    tl.store(local + (batch * segments + segment) * N * dim + tile, h, mask=in_tile)
    tl.store(total_step + (batch * segments + segment) * dim + d, total, mask=in_range)


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
    HAS_LAST: tl.constexpr,
    BACKWARD: tl.constexpr,
    BLOCK: tl.constexpr = 128,
    AHEAD: tl.constexpr = 8,
):
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
def advance(
    h,
    a,
    u_at,
    delta_at,
    B_at,
    t,
    bias,
    n,
    d,
    in_range,
    N: tl.constexpr,
    NB: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    PADDED: tl.constexpr,
):
    """One step of the state, at token ``t``."""
    mask = in_range & (t >= 0) if PADDED else in_range
    step, _ = read_step(delta_at + d, bias, mask, SOFTPLUS)
    x = tl.load(u_at + d, mask=mask, other=0.0).to(tl.float32)
    h = tl.exp2(a * step[None, :]) * h + read_map(B_at + n, t, PADDED)[:, None] * (step * x)[None, :]
    if N != NB:
        h = tl.where((n < N)[:, None], h, 0.0)  # a non-finite input times a padded zero
    return h


@triton.jit
def onward(
    h,
    u_at,
    delta_at,
    B_at,
    t,
    a,
    bias,
    n,
    d,
    in_range,
    u,
    delta,
    B,
    order,
    u_row,
    delta_row,
    map_row,
    u_time,
    delta_time,
    N: tl.constexpr,
    NB: tl.constexpr,
    MAP_ROW: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    PADDED: tl.constexpr,
    sign: tl.constexpr,
):
    """:func:`advance` at position ``t``, and where the next position lies."""
    s = t
    if HAS_ORDER:
        s = tl.load(order + t).to(tl.int64)
        u_at, delta_at = u + (u_row + s * u_time), delta + (delta_row + s * delta_time)
        B_at = B + (map_row + s) * MAP_ROW
    h = advance(h, a, u_at, delta_at, B_at, s, bias, n, d, in_range, N, NB, SOFTPLUS, PADDED)
    if not HAS_ORDER:
        u_at += sign * u_time
        delta_at += sign * delta_time
        B_at += sign * MAP_ROW
    return h, u_at, delta_at, B_at, t + sign


@triton.jit
def retreat(
    h,
    dh,
    dA,
    dskip,
    dbias,
    a,
    skip,
    bias,
    t,
    in_range,
    n,
    d,
    dim,
    inputs,
    outputs,
    rows,
    times,
    STEPS: tl.constexpr,
    N: tl.constexpr,
    NB: tl.constexpr,
    MAP_ROW: tl.constexpr,
    HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr,
    DZ: tl.constexpr,
    ADD: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    PADDED: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """STEPS steps from position ``t`` on recomputed with their states in registers, then gone through backwards.

    ``h`` is the state before them; ``dh``, the gradient that flows into the state after them, leaves as the one
    before them. Tensors come with the offsets of their image and not as moved pointers, which would fill registers.
    """
    dout, u, delta, z, B, C, kept, order = inputs
    du, ddelta, dz, dB, dC = outputs
    dout_row, u_row, delta_row, z_row, out_row, map_row, part_row = rows
    dout_time, u_time, delta_time, z_time = times
    sign: tl.constexpr = -1 if REVERSE else 1
    states, tokens = (h,), ()
    for j in tl.static_range(STEPS):
        s = t + sign * j
        if HAS_ORDER:
            s = tl.load(order + s).to(tl.int64)
        h = advance(
            h,
            a,
            u + (u_row + s * u_time),
            delta + (delta_row + s * delta_time),
            B + (map_row + s) * MAP_ROW,
            s,
            bias,
            n,
            d,
            in_range,
            N,
            NB,
            SOFTPLUS,
            PADDED,
        )
        states, tokens = states + (h,), tokens + (s,)
    for k in tl.static_range(STEPS):
        before, after = states[STEPS - 1 - k], states[STEPS - k]
        s = tokens[STEPS - 1 - k] if HAS_ORDER else t + sign * (STEPS - 1 - k)
        mask = in_range & (s >= 0) if PADDED else in_range
        out_at = (out_row + s) * dim
        map_at = (map_row + s) * MAP_ROW
        part_at = (part_row + s) * NB
        step, raw = read_step(delta + (delta_row + s * delta_time) + d, bias, mask, SOFTPLUS)
        x = tl.load(u + (u_row + s * u_time) + d, mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(dout + (dout_row + s * dout_time) + d, mask=mask, other=0.0).to(tl.float32)
        weight = read_map(B + map_at + n, s, PADDED)[:, None]
        reading = read_map(C + map_at + n, s, PADDED)[:, None]
        if HAS_Z:
            gate = tl.load(z + (z_row + s * z_time) + d, mask=mask, other=0.0).to(tl.float32)
            sigmoid = tl.sigmoid(gate)
            if DZ != 'none':
                if DZ == 'kept':
                    y = tl.load(kept + out_at + d, mask=mask, other=0.0).to(tl.float32)
                else:
                    y = tl.sum(after * reading, 0)
                    if HAS_D:
                        y += skip * x
                dgate = dy * y * sigmoid * (1.0 + gate * (1.0 - sigmoid))
                tl.store(dz + out_at + d, dgate.to(dz.dtype.element_ty), mask=mask)
            dy *= gate * sigmoid
        write_map(dC + part_at + n, tl.sum(after * dy[None, :], 1), s, PADDED)
        dh += reading * dy[None, :]
        write_map(dB + part_at + n, tl.sum(dh * (step * x)[None, :], 1), s, PADDED)
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
        if ADD:
            dx += tl.load(du + out_at + d, mask=mask, other=0.0)
        tl.store(du + out_at + d, dx.to(du.dtype.element_ty), mask=mask)
        dstep = x * dinput + LN2 * tl.sum(decayed * a, 0)
        if SOFTPLUS:
            dstep *= tl.sigmoid(raw)
        dbias += dstep
        tl.store(ddelta + out_at + d, dstep.to(ddelta.dtype.element_ty), mask=mask)
    return dh, dA, dskip, dbias


def _backward(
    dout,
    u,
    delta,
    A,
    B,
    C,
    D,
    z,
    delta_bias,
    order,
    kept,
    saved,
    entry,
    scratch,
    du,
    ddelta,
    dA,
    dB,
    dC,
    dD,
    dz,
    ddelta_bias,
    batch_size,
    dim,
    groups,
    length,
    tokens,
    segments,
    segment_length,
    dout_batch,
    dout_time,
    u_batch,
    u_time,
    delta_batch,
    delta_time,
    z_batch,
    z_time,
    N: tl.constexpr,
    NB: tl.constexpr,
    MAP_ROW: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    STEPS: tl.constexpr,
    HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    DZ: tl.constexpr,
    ADD: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    PADDED: tl.constexpr,
    REVERSE: tl.constexpr,
    HAS_ENTRY: tl.constexpr,
):
    """All gradients. Sums over channels (dB, dC) are left per channel block, sums over time (dA, dD, ddelta_bias) per
    image and segment: the host adds them in a fixed order, so that equal inputs give equal bits.

    Chunk by chunk from the end: the states before every STEPS steps are recomputed from the saved one into scratch
    memory; then each group of STEPS steps is recomputed into registers and gone through backwards.

    DZ says whence dz, if it is written, has the output before the gate: ``'kept'``, from the forward pass, or
    ``'states'``, recomputed. ADD adds to du what stands there.
    """
    batch, segment, group, block, d, in_range, n, tile, in_tile, first, steps = place(
        dim, groups, length, segments, segment_length, N, NB, BLOCK
    )
    a = tl.load(A + tile, mask=in_tile, other=0.0) * LOG2E
    skip = tl.load(D + d, mask=in_range, other=0.0) if HAS_D else 0.0
    bias = tl.load(delta_bias + d, mask=in_range, other=0.0) if HAS_BIAS else 0.0

    dout_row, u_row, delta_row, z_row = batch * dout_batch, batch * u_batch, batch * delta_batch, batch * z_batch
    out_row = batch * tokens
    map_row = (batch * groups + group) * tokens
    part_row = ((block * batch_size + batch) * groups + group) * tokens
    inputs, outputs = (dout, u, delta, z, B, C, kept, order), (du, ddelta, dz, dB, dC)
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
        s = t
        u_at, delta_at = u + (u_row + t * u_time), delta + (delta_row + t * delta_time)
        B_at = B + (map_row + t) * MAP_ROW
        h = tl.load(saved + (saved_row + start // CHUNK) * N * dim + tile, mask=in_tile, other=0.0)
        tl.debug_barrier()
        for k in range(full):
            tl.store(scratch + (scratch_row + k) * TILE + slot, h)
            if k + 1 < full + rest:
                for _ in tl.static_range(STEPS):
                    h, u_at, delta_at, B_at, s = onward(
                        h,
                        u_at,
                        delta_at,
                        B_at,
                        s,
                        a,
                        bias,
                        n,
                        d,
                        in_range,
                        u,
                        delta,
                        B,
                        order,
                        u_row,
                        delta_row,
                        map_row,
                        u_time,
                        delta_time,
                        N,
                        NB,
                        MAP_ROW,
                        SOFTPLUS,
                        HAS_ORDER,
                        PADDED,
                        sign,
                    )
        for k in range(rest):
            tl.store(scratch + (scratch_row + full + k) * TILE + slot, h)
            h, u_at, delta_at, B_at, s = onward(
                h,
                u_at,
                delta_at,
                B_at,
                s,
                a,
                bias,
                n,
                d,
                in_range,
                u,
                delta,
                B,
                order,
                u_row,
                delta_row,
                map_row,
                u_time,
                delta_time,
                N,
                NB,
                MAP_ROW,
                SOFTPLUS,
                HAS_ORDER,
                PADDED,
                sign,
            )
        tl.debug_barrier()
        for k in range(rest):
            i = rest - 1 - k
            dh, dA_sum, dskip, dbias = retreat(
                tl.load(scratch + (scratch_row + full + i) * TILE + slot),
                dh,
                dA_sum,
                dskip,
                dbias,
                a,
                skip,
                bias,
                t + sign * (full * STEPS + i),
                in_range,
                n,
                d,
                dim,
                inputs,
                outputs,
                rows,
                times,
                1,
                N,
                NB,
                MAP_ROW,
                HAS_D,
                HAS_Z,
                DZ,
                ADD,
                SOFTPLUS,
                HAS_ORDER,
                PADDED,
                REVERSE,
            )
        for k in range(full):
            i = full - 1 - k
            dh, dA_sum, dskip, dbias = retreat(
                tl.load(scratch + (scratch_row + i) * TILE + slot),
                dh,
                dA_sum,
                dskip,
                dbias,
                a,
                skip,
                bias,
                t + sign * (i * STEPS),
                in_range,
                n,
                d,
                dim,
                inputs,
                outputs,
                rows,
                times,
                STEPS,
                N,
                NB,
                MAP_ROW,
                HAS_D,
                HAS_Z,
                DZ,
                ADD,
                SOFTPLUS,
                HAS_ORDER,
                PADDED,
                REVERSE,
            )
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
    _backward, do_not_specialize=VARYING, do_not_specialize_on_alignment=STATE_TILES
)


def backward_for(padded: int):
    """The backward kernel for NB = ``padded``."""
    return backward_kernel if padded >= 4 else backward_kernel_few_states
