"""What the kernels share: where a program works, and how it reads steps, maps and convolved inputs."""

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
def read_step(p_delta, b_bias, m_d, SOFTPLUS: tl.constexpr):
    """dt (BLOCK,), and what goes into its softplus."""
    b_raw = tl.load(p_delta, mask=m_d, other=0.0).to(tl.float32) + b_bias
    b_step = softplus(b_raw) if SOFTPLUS else b_raw
    return b_step, b_raw


@triton.jit
def place(dim, groups, length, segments, segment_length, N: tl.constexpr, NB: tl.constexpr, BLOCK: tl.constexpr):
    """Where this program works: neighbours in the grid share B and C, so channel blocks come first.

    Returns indices of image, segment, group and channel block; the lanes: channels (BLOCK,), their mask, states (NB,);
    the offsets of an (NB, BLOCK) tile of (N, D) and their mask; the first step and how many there are.
    """
    i_program = tl.program_id(0)
    width = dim // groups
    blocks = tl.cdiv(width, BLOCK)
    i_block = i_program % blocks
    i_g = i_program // blocks % groups
    i_segment = i_program // (blocks * groups) % segments
    i_b = (i_program // (blocks * groups * segments)).to(tl.int64)
    o_within = i_block * BLOCK + tl.arange(0, BLOCK)
    o_d = i_g * width + o_within
    m_d = o_within < width
    o_n = tl.arange(0, NB)
    o_tile = o_n[:, None] * dim + o_d[None, :]
    m_tile = m_d[None, :] & (o_n < N)[:, None]
    first = i_segment * segment_length
    steps = tl.minimum(segment_length, length - first)
    return i_b, i_segment, i_g, i_block, (o_d, m_d, o_n), o_tile, m_tile, first, steps


@triton.jit
def position(i_s, length, REVERSE: tl.constexpr):
    i_t = length - 1 - i_s if REVERSE else i_s
    return i_t.to(tl.int64)


@triton.jit
def token(i_s, length, order, REVERSE: tl.constexpr):
    """Where step ``i_s`` finds its token, -1 in a padding slot."""
    i_t = position(i_s, length, REVERSE)
    if order is not None:
        i_t = tl.load(order + i_t).to(tl.int64)
    return i_t


@triton.jit
def read_vector(p, lanes, BLOCK: tl.constexpr):
    """(BLOCK,) of a vector (D,); zeros where there is none."""
    o_d, m_d, _o_n = lanes
    b = tl.zeros((BLOCK,), tl.float32)
    if p is not None:
        b = tl.load(p + o_d, mask=m_d, other=0.0)
    return b


@triton.jit
def read_map(p, i_t, PADDED: tl.constexpr):
    """A row of what is projected from token ``i_t``."""
    return tl.load(p, mask=i_t >= 0, other=0.0) if PADDED else tl.load(p)


@triton.jit
def write_map(p, b, i_t, PADDED: tl.constexpr):
    if PADDED:
        tl.store(p, b, mask=i_t >= 0)
    else:
        tl.store(p, b)


@triton.jit
def window_before(first, length, x, x_row, x_time, order, lanes, TAPS: tl.constexpr, REVERSE: tl.constexpr):
    """The TAPS - 1 inputs (BLOCK,) before step ``first``, which the convolution at that step sees."""
    o_d, m_d, _o_n = lanes
    b_window = ()
    for w in tl.static_range(1, TAPS):
        i_s = first - TAPS + w
        there = i_s >= 0
        i_t = token(tl.maximum(i_s, 0), length, order, REVERSE)
        if order is not None:
            there = there & (i_t >= 0)
        b_window = b_window + (tl.load(x + (x_row + i_t * x_time) + o_d, mask=m_d & there, other=0.0).to(tl.float32),)
    return b_window


@triton.jit
def read_taps(weight, dim, lanes, TAPS: tl.constexpr):
    """TAPS x (BLOCK,) of a convolution's weight (TAPS, D)."""
    o_d, m_d, _o_n = lanes
    b_taps = ()
    for w in tl.static_range(TAPS):
        b_taps = b_taps + (tl.load(weight + w * dim + o_d, mask=m_d, other=0.0),)
    return b_taps


@triton.jit
def convolved(b_window, b_taps, b_offset, first: tl.constexpr, TAPS: tl.constexpr):
    """The convolution over the window from its entry ``first`` on, before the SiLU."""
    b_y = b_taps[0] * b_window[first] + b_offset
    for w in tl.static_range(1, TAPS):
        b_y += b_taps[w] * b_window[first + w]
    return b_y


@triton.jit
def read_step_weight(weight, dim, lanes, RANK: tl.constexpr, TILE: tl.constexpr):
    """(RANK, D) in tiles (TILE, BLOCK), few enough for each lane to hold them all."""
    o_d, m_d, _o_n = lanes
    b_tiles = ()
    for k in tl.static_range(RANK // TILE):
        o_rank = k * TILE + tl.arange(0, TILE)[:, None]
        b_tiles = b_tiles + (tl.load(weight + o_rank * dim + o_d[None, :], mask=m_d[None, :], other=0.0),)
    return b_tiles


@triton.jit
def projected(p_low, i_t, b_tiles, b_bias, RANK: tl.constexpr, TILE: tl.constexpr, PADDED: tl.constexpr):
    """What goes into the step's softplus (BLOCK,), from its low rank (RANK,)."""
    b_raw = tl.zeros_like(b_bias)
    for k in tl.static_range(RANK // TILE):
        b_low = read_map(p_low + (k * TILE + tl.arange(0, TILE)), i_t, PADDED)
        b_raw += tl.sum(b_tiles[k] * b_low[:, None], 0)
    return b_raw + b_bias
