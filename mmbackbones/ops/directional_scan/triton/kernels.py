"""Triton kernels for what comes before a scan; the scan's own are those of the selective scan, whose names they share.

The convolution is depthwise and causal along the scan, whose step ``i_s`` finds its token as the scan's kernels do.
Programs take TIME steps of BLOCK channels; every tap reads its shifted tile again, from the first-level cache. Its
``filters`` are the weight (TAPS, D) and the bias (D,) or None; ``strides`` are those of batch and time of x.
"""

import triton
import triton.language as tl

from mmbackbones.ops.selective_scan.triton.kernels.parts import position

VARYING = ['length', 'tokens']


@triton.jit
def place(dim, length, TIME: tl.constexpr, BLOCK: tl.constexpr):
    """Image and tile of time; channels (BLOCK,) with their mask, and steps (TIME,)."""
    i_program = tl.program_id(0)
    blocks, tiles = tl.cdiv(dim, BLOCK), tl.cdiv(length, TIME)
    o_d = i_program % blocks * BLOCK + tl.arange(0, BLOCK)
    i_tile = i_program // blocks % tiles
    i_b = (i_program // (blocks * tiles)).to(tl.int64)
    return i_b, i_tile, o_d, o_d < dim, i_tile * TIME + tl.arange(0, TIME)


@triton.jit
def find(o_s, length, order, REVERSE: tl.constexpr):
    """The tokens of steps ``o_s`` (TIME,), negative outside the sequence and in padding."""
    o_t = position(o_s, length, REVERSE)
    m_s = (o_s >= 0) & (o_s < length)
    if order is not None:
        return tl.load(order + o_t, mask=m_s, other=-1).to(tl.int64)
    return tl.where(m_s, o_t, -1)


@triton.jit
def read(x, row, time, o_t, o_d, m_d):
    """(TIME, BLOCK) of x at tokens ``o_t``."""
    mask = (o_t >= 0)[:, None] & m_d[None, :]
    return tl.load(x + (row + o_t * time)[:, None] + o_d[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def convolution(
    x,
    row,
    time,
    filters,
    order,
    o_s,
    length,
    dim,
    o_d,
    m_d,
    TIME: tl.constexpr,
    BLOCK: tl.constexpr,
    TAPS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """(TIME, BLOCK), before the SiLU."""
    weight, bias = filters
    b_y = tl.zeros((TIME, BLOCK), tl.float32)
    if bias is not None:
        b_y += tl.load(bias + o_d, mask=m_d, other=0.0)[None, :]
    for w in tl.static_range(TAPS):
        b_tap = tl.load(weight + w * dim + o_d, mask=m_d, other=0.0)[None, :]
        b_y += b_tap * read(x, row, time, find(o_s - (TAPS - 1) + w, length, order, REVERSE), o_d, m_d)
    return b_y


@triton.jit(do_not_specialize=VARYING)
def project_kernel(
    x,
    filters,
    order,
    projection,
    projected,
    dim,
    length,
    tokens,
    columns,
    strides,
    TIME: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    TAPS: tl.constexpr,
    REVERSE: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """The SiLU of the convolution times ``projection`` (columns, D), in its dtype, summed in float32: ``columns``
    numbers of each token, in rows of the last of ``strides``. WIDTH: columns as a power of two, 16 or more."""
    x_batch, x_time, projected_time = strides
    tiles = tl.cdiv(length, TIME)
    i_b = (tl.program_id(0) // tiles).to(tl.int64)
    o_s = tl.program_id(0) % tiles * TIME + tl.arange(0, TIME)
    o_c = tl.arange(0, WIDTH)
    b_total = tl.zeros((TIME, WIDTH), tl.float32)
    for start in range(0, dim, BLOCK):
        o_d = start + tl.arange(0, BLOCK)
        m_d = o_d < dim
        b_u = convolution(
            x, i_b * x_batch, x_time, filters, order, o_s, length, dim, o_d, m_d, TIME, BLOCK, TAPS, REVERSE
        )
        b_u *= tl.sigmoid(b_u)
        b_u = tl.where(m_d[None, :], b_u, 0.0).to(projection.dtype.element_ty)
        mask = (o_c < columns)[None, :] & m_d[:, None]
        b_projection = tl.load(projection + o_c[None, :] * dim + o_d[:, None], mask=mask, other=0.0)
        if INTERPRETED:  # there bfloat16 is multiplied as the integers that hold it
            b_u, b_projection = b_u.to(tl.float32), b_projection.to(tl.float32)
        b_total = tl.dot(b_u, b_projection, b_total, input_precision='ieee')
    o_t = find(o_s, length, order, REVERSE)
    mask = (o_t >= 0)[:, None] & (o_c < columns)[None, :]
    tl.store(projected + ((i_b * tokens + o_t) * projected_time)[:, None] + o_c[None, :], b_total, mask=mask)


@triton.jit(do_not_specialize=VARYING)
def conv_kernel(
    x,
    filters,
    order,
    out,
    dim,
    length,
    tokens,
    strides,
    TIME: tl.constexpr,
    BLOCK: tl.constexpr,
    TAPS: tl.constexpr,
    REVERSE: tl.constexpr,
    ACTIVATE: tl.constexpr,
    ADD: tl.constexpr,
):
    """The convolution, with ACTIVATE its SiLU. With REVERSE turned round and without ACTIVATE it is the transposed one,
    which brings gradients back; ADD adds it to what stands in ``out``."""
    x_batch, x_time = strides
    i_b, _i_tile, o_d, m_d, o_s = place(dim, length, TIME, BLOCK)
    b_y = convolution(x, i_b * x_batch, x_time, filters, order, o_s, length, dim, o_d, m_d, TIME, BLOCK, TAPS, REVERSE)
    if ACTIVATE:
        b_y *= tl.sigmoid(b_y)
    o_t = find(o_s, length, order, REVERSE)
    o_out = ((i_b * tokens + o_t) * dim)[:, None] + o_d[None, :]
    mask = (o_t >= 0)[:, None] & m_d[None, :]
    if ADD:
        b_y += tl.load(out + o_out, mask=mask, other=0.0)
    tl.store(out + o_out, b_y.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=VARYING)
def conv_backward_kernel(
    x,
    du,
    filters,
    order,
    dweight,
    dbias,
    dim,
    length,
    tokens,
    strides,
    TIME: tl.constexpr,
    BLOCK: tl.constexpr,
    TAPS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """Through the SiLU: ``du`` becomes the gradient of what went into it. Those of weight and bias are left for each
    program: (programs over batch and time, W, D) and (the same, D)."""
    x_batch, x_time = strides
    i_b, i_tile, o_d, m_d, o_s = place(dim, length, TIME, BLOCK)
    x_row = i_b * x_batch
    b_y = convolution(x, x_row, x_time, filters, order, o_s, length, dim, o_d, m_d, TIME, BLOCK, TAPS, REVERSE)
    o_t = find(o_s, length, order, REVERSE)
    b_sigmoid = tl.sigmoid(b_y)
    b_dy = read(du, i_b * tokens * dim, dim, o_t, o_d, m_d) * b_sigmoid * (1.0 + b_y * (1.0 - b_sigmoid))
    o_du = ((i_b * tokens + o_t) * dim)[:, None] + o_d[None, :]
    tl.store(du + o_du, b_dy.to(du.dtype.element_ty), mask=(o_t >= 0)[:, None] & m_d[None, :])
    i_part = i_b * tl.cdiv(length, TIME) + i_tile
    for w in tl.static_range(TAPS):
        b_x = read(x, x_row, x_time, find(o_s - (TAPS - 1) + w, length, order, REVERSE), o_d, m_d)
        tl.store(dweight + (i_part * TAPS + w) * dim + o_d, tl.sum(b_dy * b_x, 0), mask=m_d)
    tl.store(dbias + i_part * dim + o_d, tl.sum(b_dy, 0), mask=m_d)
