"""Triton kernels for what comes before a scan; the scan's own are those of the selective scan.

The convolution is depthwise and causal along the scan, whose step ``i`` finds its token as the scan's kernels do.
Programs take TIME steps of BLOCK channels; every tap reads its shifted tile again, from the first-level cache.
"""

import triton
import triton.language as tl

from mmbackbones.ops.selective_scan.triton.kernels import position

VARYING = ['length', 'tokens']


@triton.jit
def place(dim, length, TIME: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    blocks, tiles = tl.cdiv(dim, BLOCK), tl.cdiv(length, TIME)
    d = program % blocks * BLOCK + tl.arange(0, BLOCK)
    tile = program // blocks % tiles
    batch = (program // (blocks * tiles)).to(tl.int64)
    return batch, tile, d, d < dim, tile * TIME + tl.arange(0, TIME)


@triton.jit
def find(i, length, order, HAS_ORDER: tl.constexpr, REVERSE: tl.constexpr):
    """The tokens of steps ``i``, negative outside the sequence and in padding."""
    t = position(i, length, REVERSE)
    inside = (i >= 0) & (i < length)
    if HAS_ORDER:
        return tl.load(order + t, mask=inside, other=-1).to(tl.int64)
    return tl.where(inside, t, -1)


@triton.jit
def read(x, row, time, t, d, in_range):
    mask = (t >= 0)[:, None] & in_range[None, :]
    return tl.load(x + (row + t * time)[:, None] + d[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def convolution(
    x,
    row,
    time,
    weight,
    bias,
    i,
    length,
    order,
    dim,
    d,
    in_range,
    TIME: tl.constexpr,
    BLOCK: tl.constexpr,
    TAPS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    REVERSE: tl.constexpr,
):
    y = tl.zeros((TIME, BLOCK), tl.float32)
    if HAS_BIAS:
        y += tl.load(bias + d, mask=in_range, other=0.0)[None, :]
    for w in tl.static_range(TAPS):
        tap = tl.load(weight + w * dim + d, mask=in_range, other=0.0)[None, :]
        y += tap * read(x, row, time, find(i - (TAPS - 1) + w, length, order, HAS_ORDER, REVERSE), d, in_range)
    return y


@triton.jit(do_not_specialize=VARYING)
def project_kernel(
    x,
    conv_weight,
    conv_bias,
    order,
    projection,
    projected,
    dim,
    length,
    tokens,
    columns,
    x_batch,
    x_time,
    projected_time,
    TIME: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    TAPS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    REVERSE: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """The SiLU of the convolution times ``projection`` (columns, D), in its dtype, summed in float32: ``columns``
    numbers of each token, in rows of ``projected_time``. WIDTH: columns as a power of two, 16 or more."""
    tiles = tl.cdiv(length, TIME)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    i = tl.program_id(0) % tiles * TIME + tl.arange(0, TIME)
    c = tl.arange(0, WIDTH)
    total = tl.zeros((TIME, WIDTH), tl.float32)
    for start in range(0, dim, BLOCK):
        d = start + tl.arange(0, BLOCK)
        in_range = d < dim
        u = convolution(
            x,
            batch * x_batch,
            x_time,
            conv_weight,
            conv_bias,
            i,
            length,
            order,
            dim,
            d,
            in_range,
            TIME,
            BLOCK,
            TAPS,
            HAS_BIAS,
            HAS_ORDER,
            REVERSE,
        )
        u *= tl.sigmoid(u)
        u = tl.where(in_range[None, :], u, 0.0).to(projection.dtype.element_ty)
        mask = (c < columns)[None, :] & in_range[:, None]
        tile = tl.load(projection + c[None, :] * dim + d[:, None], mask=mask, other=0.0)
        if INTERPRETED:  # there bfloat16 is multiplied as the integers that hold it
            u, tile = u.to(tl.float32), tile.to(tl.float32)
        total = tl.dot(u, tile, total, input_precision='ieee')
    t = find(i, length, order, HAS_ORDER, REVERSE)
    mask = (t >= 0)[:, None] & (c < columns)[None, :]
    tl.store(projected + ((batch * tokens + t) * projected_time)[:, None] + c[None, :], total, mask=mask)


@triton.jit(do_not_specialize=VARYING)
def conv_kernel(
    x,
    weight,
    bias,
    order,
    out,
    dim,
    length,
    tokens,
    x_batch,
    x_time,
    TIME: tl.constexpr,
    BLOCK: tl.constexpr,
    TAPS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    REVERSE: tl.constexpr,
    ACTIVATE: tl.constexpr,
    ADD: tl.constexpr,
):
    """The convolution, with ACTIVATE its SiLU. With REVERSE turned round and without ACTIVATE it is the transposed one,
    which brings gradients back; ADD adds it to what stands in ``out``."""
    batch, _, d, in_range, i = place(dim, length, TIME, BLOCK)
    y = convolution(
        x,
        batch * x_batch,
        x_time,
        weight,
        bias,
        i,
        length,
        order,
        dim,
        d,
        in_range,
        TIME,
        BLOCK,
        TAPS,
        HAS_BIAS,
        HAS_ORDER,
        REVERSE,
    )
    if ACTIVATE:
        y *= tl.sigmoid(y)
    t = find(i, length, order, HAS_ORDER, REVERSE)
    at = ((batch * tokens + t) * dim)[:, None] + d[None, :]
    mask = (t >= 0)[:, None] & in_range[None, :]
    if ADD:
        y += tl.load(out + at, mask=mask, other=0.0)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=VARYING)
def conv_backward_kernel(
    x,
    du,
    weight,
    bias,
    order,
    dweight,
    dbias,
    dim,
    length,
    tokens,
    x_batch,
    x_time,
    TIME: tl.constexpr,
    BLOCK: tl.constexpr,
    TAPS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """Through the SiLU: ``du`` becomes the gradient of what went into it. Those of weight and bias are left for each
    program: (programs over batch and time, W, D) and (the same, D)."""
    batch, tile, d, in_range, i = place(dim, length, TIME, BLOCK)
    y = convolution(
        x,
        batch * x_batch,
        x_time,
        weight,
        bias,
        i,
        length,
        order,
        dim,
        d,
        in_range,
        TIME,
        BLOCK,
        TAPS,
        HAS_BIAS,
        HAS_ORDER,
        REVERSE,
    )
    t = find(i, length, order, HAS_ORDER, REVERSE)
    sigmoid = tl.sigmoid(y)
    dy = read(du, batch * tokens * dim, dim, t, d, in_range) * sigmoid * (1.0 + y * (1.0 - sigmoid))
    at = ((batch * tokens + t) * dim)[:, None] + d[None, :]
    tl.store(du + at, dy.to(du.dtype.element_ty), mask=(t >= 0)[:, None] & in_range[None, :])
    part = batch * tl.cdiv(length, TIME) + tile
    for w in tl.static_range(TAPS):
        shifted = read(
            x, batch * x_batch, x_time, find(i - (TAPS - 1) + w, length, order, HAS_ORDER, REVERSE), d, in_range
        )
        tl.store(dweight + (part * TAPS + w) * dim + d, tl.sum(dy * shifted, 0), mask=in_range)
    tl.store(dbias + part * dim + d, tl.sum(dy, 0), mask=in_range)
