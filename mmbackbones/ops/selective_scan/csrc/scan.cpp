// The selective scan on the CPU. One source, compiled once per instruction set; cpu.py picks a build at run time.
//
// A vector holds LANES channels at one time step, so the recurrence needs no shuffles. Time is cut into chunks of CHUNK
// steps; within a chunk the states of a block of channels stay in registers, a few at a time, over all its steps. The
// forward leaves the state before every chunk; the backward replays one chunk after the other from there. Chunks are the
// outer loop and channels the inner one: B and C of a chunk are unpacked once for all channels, and their gradients stay
// in cache until all channels have added to them.
//
// No associative-math and no finite-math flags: the rounding by a magic number and NaN depend on their absence.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <type_traits>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __AVX2__
#include <immintrin.h>
#endif

struct View {  // (B, D, L); strides in elements, that of the channel or that of the step is 1; null if absent
  const float* data;
  int64_t batch, channel, step;
};

struct Maps {  // (B, G, N, L); strides in elements, without an order that of the step is 1
  const float* data;
  int64_t batch, group, state, step;
};

// A scan visits `slots` slots. Without an order slot s is position s of the L. With one it is position order[s], and where
// that is -1 the slot is padding: it reads zeros and writes nothing. Then the channel strides of all views are 1, and what
// is (B, D, L) in the comments below lies in memory as (B, L, D).
struct ScanProblem {  // cpu.py mirrors the fields; all but views and maps are contiguous
  int64_t batch, dim, length, state, groups, slots;
  const int64_t* order;
  int64_t softplus, reverse, splits, threads;
  View u, delta, z, dout;
  Maps B, C;
  const float *A, *D, *delta_bias;          // (D, N), (D), (D)
  float *out, *last_state;                  // (B, D, L), (B, D, N)
  float *saved;                             // (B, chunks, N, D): states before the chunks, or null
  const float* dlast_state;                 // (B, D, N) or null
  float *du, *ddelta, *dz;                  // (B, D, L)
  float *dA, *dD, *ddelta_bias;             // (B, D, N), (B, D) or null, (B, D) or null
  float *dB, *dC;                           // (splits, B, G, N, L)
};

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, TABLE_BITS = 5;
#elif defined(__AVX2__)
constexpr int LANES = 8, TABLE_BITS = 3;
#else
constexpr int LANES = 4, TABLE_BITS = 0;
#endif
constexpr int CHUNK = 64, REST = 16, MOST_STEPS = CHUNK + REST;

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int32_t VecInt __attribute__((vector_size(LANES * 4)));
typedef float VecUnaligned __attribute__((vector_size(LANES * 4), aligned(4)));

inline Vec broadcast(float x) { return Vec{} + x; }
inline Vec load(const float* p) { return *reinterpret_cast<const VecUnaligned*>(p); }
inline void store(float* p, Vec x) { *reinterpret_cast<VecUnaligned*>(p) = x; }

inline Vec load_lanes(const float* p, int lanes) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps((1u << lanes) - 1, p);
#else
  if (lanes == LANES) return load(p);
  Vec x{};
  std::memcpy(&x, p, lanes * sizeof(float));
  return x;
#endif
}
inline void store_lanes(float* p, Vec x, int lanes) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, (1u << lanes) - 1, x);
#else
  if (lanes == LANES) store(p, x);
  else std::memcpy(p, &x, lanes * sizeof(float));
#endif
}

// The second operand where one is NaN, so that NaN in x survives.
inline Vec clamp(Vec x, float low, float high) {
#if defined(__AVX512F__)
  return _mm512_min_ps(broadcast(high), _mm512_max_ps(broadcast(low), x));
#elif defined(__AVX2__)
  return _mm256_min_ps(broadcast(high), _mm256_max_ps(broadcast(low), x));
#else
  x = x < low ? broadcast(low) : x;
  return x > high ? broadcast(high) : x;
#endif
}

// As it is, but out of reach for contraction: a product and a sum keep more of a core's units busy than two fused steps.
inline Vec rounded(Vec x) {
#if defined(__AVX512F__)
  asm("" : "+v"(x));
#elif defined(__x86_64__)
  asm("" : "+x"(x));
#endif
  return x;
}

// 2^(x / UNIT) = table[k mod UNIT] * 2^(k div UNIT) * p(x - k) with k = round(x), p(0) = 1, |relative error of p| < 1e-7.
constexpr float UNIT = 1 << TABLE_BITS;
constexpr float LOG2E_UNITS = 1.44269504088896340736 * UNIT;
constexpr float EXP_LOW = -127 * UNIT, EXP_HIGH = 128 * UNIT;  // exactly 0 and infinity

struct Exp2 {
  static constexpr float ROUND = 12582912;  // 1.5 * 2^23: the sum's low bits are the rounded integer
  Vec table[TABLE_BITS == 5 ? 2 : 1];

  Exp2() {
    // 2^(i / UNIT) as bits, less the exponent that adding k << (23 - TABLE_BITS) will put there.
    alignas(64) int32_t bits[32];
    for (int i = 0; i < 1 << TABLE_BITS; i++) {
      float value = __builtin_exp2f(i / UNIT);
      std::memcpy(&bits[i], &value, 4);
      bits[i] -= i << (23 - TABLE_BITS);
    }
    if (TABLE_BITS == 0) table[0] = broadcast(1);
    else std::memcpy(table, bits, sizeof(float) << TABLE_BITS);
  }

  inline Vec scale(VecInt k) const {
#if defined(__AVX512F__)
    VecInt entry = (VecInt)_mm512_permutex2var_ps(table[0], (__m512i)k, table[1]);
#elif defined(__AVX2__)
    VecInt entry = (VecInt)_mm256_permutevar8x32_ps(table[0], (__m256i)k);
#else
    VecInt entry = (VecInt)table[0];
#endif
    return (Vec)(entry + (k << (23 - TABLE_BITS)));
  }

  template <bool CLAMP>
  inline Vec units(Vec x) const {
    if (CLAMP) x = clamp(x, EXP_LOW, EXP_HIGH);
    Vec x0 = rounded(x);
    Vec k = x0 + ROUND;
    Vec r = x0 - (k - ROUND);
    Vec p;
    if (TABLE_BITS == 5) p = 2.166116610e-2f + r * 2.345961985e-4f;
    else if (TABLE_BITS == 3) p = 8.664340526e-2f + r * (3.754025558e-3f + r * 1.083913611e-4f);
    else p = 0.6931470037f + r * (0.2402224243f + r * (5.550733581e-2f + r * (9.671512991e-3f + r * 1.326472731e-3f)));
    return (1 + r * p) * scale((VecInt)k);
  }

  inline Vec operator()(Vec x) const { return units<true>(x * LOG2E_UNITS); }
  inline Vec of_minus(Vec x) const { return units<true>(x * -LOG2E_UNITS); }
};

// The step size and the derivative of softplus, from e = exp(-|x|): log(1 + e) = 2 atanh(e / (2 + e)).
inline Vec softplus(const Exp2& exp, Vec x, Vec* derivative) {
  Vec e = exp.of_minus((Vec)((VecInt)x & 0x7fffffff));
  Vec s;
  if (derivative) {
    Vec r = 1 / ((1 + e) * (2 + e));
    s = e * (1 + e) * r;
    *derivative = (x < 0 ? e : broadcast(1)) * (2 + e) * r;
  } else {
    s = e / (2 + e);
  }
  Vec w = s * s;
  Vec log1p = s * (2 + w * (0.6666641832f + w * (0.4002152681f + w * (0.2800180614f + w * 0.2801198661f))));
  return (x > 0 ? x : Vec{}) + log1p;
}

// ---- Tiles: CHUNK steps x LANES channels ----

// Rows become columns: in log2(LANES) rounds, blocks change places between rows i and i + distance.
template <int... LANE>
struct Lanes {};
template <int COUNT, int... LANE>
struct Range : Range<COUNT - 1, COUNT - 1, LANE...> {};
template <int... LANE>
struct Range<0, LANE...> { typedef Lanes<LANE...> type; };

template <int DISTANCE, int... LANE>
inline void exchange(Vec& a, Vec& b, Lanes<LANE...>) {
#ifdef __clang__
  Vec low = __builtin_shufflevector(a, b, (LANE & DISTANCE ? LANES + LANE - DISTANCE : LANE)...);
  b = __builtin_shufflevector(a, b, (LANE & DISTANCE ? LANES + LANE : LANE + DISTANCE)...);
#else
  Vec low = __builtin_shuffle(a, b, VecInt{(LANE & DISTANCE ? LANES + LANE - DISTANCE : LANE)...});
  b = __builtin_shuffle(a, b, VecInt{(LANE & DISTANCE ? LANES + LANE : LANE + DISTANCE)...});
#endif
  a = low;
}

template <int DISTANCE>
inline void transpose(Vec* rows) {
  for (int i = 0; i < LANES; i++)
    if (!(i & DISTANCE)) exchange<DISTANCE>(rows[i], rows[i + DISTANCE], Range<LANES>::type());
  if (DISTANCE > 1) transpose<(DISTANCE > 1 ? DISTANCE / 2 : 1)>(rows);
}

// Sums over lanes, many at a time: COUNT vectors become vectors_left(COUNT), in which value k has its part of the lanes of
// vector k mod vectors_left. Halves meet by an exchange, the cheap ones within 128 bits first.
constexpr int vectors_left(int count) { return count > LANES ? count / LANES : 1; }

template <int... LANE>
inline Vec interleaved_sum(Vec a, Vec b, Lanes<LANE...>) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, ((LANE & ~3) + (LANE & 3) / 2 + (LANE & 1) * LANES)...) +
         __builtin_shufflevector(a, b, ((LANE & ~3) + (LANE & 3) / 2 + 2 + (LANE & 1) * LANES)...);
#else
  return __builtin_shuffle(a, b, VecInt{((LANE & ~3) + (LANE & 3) / 2 + (LANE & 1) * LANES)...}) +
         __builtin_shuffle(a, b, VecInt{((LANE & ~3) + (LANE & 3) / 2 + 2 + (LANE & 1) * LANES)...});
#endif
}

// The bit of the lane number in which the two of a pair differ after level 0, 1, ...
constexpr int fold_bit(int level) { return level < 2 ? 1 << level : LANES >> (level - 1); }

template <int COUNT, int LEVEL = 0>
inline void fold(Vec* x) {
  if constexpr (COUNT > 1 && 1 << LEVEL < LANES) {
#pragma GCC unroll 8
    for (int k = 0; k < COUNT / 2; k++) {
      if constexpr (LEVEL == 0) {
        x[k] = interleaved_sum(x[k], x[k + COUNT / 2], Range<LANES>::type());
      } else {
        exchange<fold_bit(LEVEL)>(x[k], x[k + COUNT / 2], Range<LANES>::type());
        x[k] += x[k + COUNT / 2];
      }
    }
    fold<COUNT / 2, LEVEL + 1>(x);
  }
}

// Value k of LANES folded sums at a time, which were transposed: row i of vector v is rows[v * LANES + i].
template <int COUNT>
inline Vec folded(const Vec* rows, int k) {
  int mask = 0, lane_k = 0, level = 0;
  for (int count = COUNT; count > 1 && 1 << level < LANES; count /= 2, level++) {
    mask |= fold_bit(level);
    if (k & count / 2) lane_k |= fold_bit(level);
  }
  Vec sum{};
#pragma GCC unroll 16
  for (int lane = 0; lane < LANES; lane++)
    if ((lane & mask) == lane_k) sum += rows[k % vectors_left(COUNT) * LANES + lane];
  return sum;
}

// From memory with strides (channel, step), one of which is 1. Lanes and steps beyond the tile are zero.
inline void load_tile(Vec* tile, const float* p, int64_t channel, int64_t step, int lanes, int steps) {
  if (channel == 1) {
    for (int t = 0; t < steps; t++) tile[t] = load_lanes(p + t * step, lanes);
    return;
  }
  int t = 0;
  if (lanes == LANES)
    for (; t + LANES <= steps; t += LANES) {
      Vec rows[LANES];
      for (int i = 0; i < LANES; i++) rows[i] = load(p + i * channel + t);
      transpose<LANES / 2>(rows);
      for (int i = 0; i < LANES; i++) tile[t + i] = rows[i];
    }
  for (; t < steps; t += LANES) {
    for (int i = 0; i < LANES; i++)
      tile[t + i] = i < lanes ? load_lanes(p + i * channel + t, steps - t < LANES ? steps - t : LANES) : Vec{};
    transpose<LANES / 2>(tile + t);
  }
}

// To rows of `length` steps.
inline void store_tile(float* p, const Vec* tile, int64_t length, int lanes, int steps) {
  int t = 0;
  if (lanes == LANES)
    for (; t + LANES <= steps; t += LANES) {
      Vec rows[LANES];
      for (int i = 0; i < LANES; i++) rows[i] = tile[t + i];
      transpose<LANES / 2>(rows);
      for (int i = 0; i < LANES; i++) store(p + i * length + t, rows[i]);
    }
  for (; t < steps; t += LANES) {
    Vec rows[LANES];
    for (int i = 0; i < LANES; i++) rows[i] = tile[t + i];
    transpose<LANES / 2>(rows);
    for (int i = 0; i < lanes; i++) store_lanes(p + i * length + t, rows[i], steps - t < LANES ? steps - t : LANES);
  }
}

// ---- Shares of the problem ----

// Of magnitudes as bits, whose order is that of the numbers, NaN above all.
inline VecInt larger(VecInt most, Vec x) {
  VecInt bits = (VecInt)x & 0x7fffffff;
  return bits > most ? bits : most;
}

// The tiles of the next block, fetched while the states of this one advance: rows lie too far apart for the hardware to
// foresee. One line of each tile at every step.
struct Ahead {
  struct Stream { const char* p; const int64_t* offsets; } streams[8];
  int count = 0;

  inline void fetch(int i, int first, int every) const {
#pragma GCC unroll 1
    for (int s = first; s < count; s += every) __builtin_prefetch(streams[s].p + streams[s].offsets[i], 0, 2);
  }
};

// Of the lines of a tile, in bytes: a row of CHUNK steps has 4.
struct Offsets {
  int64_t channel, step, bytes[MOST_STEPS];
  Offsets(int64_t channel, int64_t step) : channel(channel), step(step) {
    for (int i = 0; i < MOST_STEPS; i++) bytes[i] = channel == 1 ? 4 * step * i : 4 * channel * (i >> 2) + 64 * (i & 3);
  }
  void follow(const int64_t* order, int64_t slots) {
    for (int i = 0; i < MOST_STEPS; i++) bytes[i] = i < slots && order[i] > 0 ? 4 * step * order[i] : 0;
  }
};

// A rest of less than REST steps belongs to the chunk before it.
inline int64_t chunks_of(int64_t length) { return length < CHUNK + REST ? 1 : (length + CHUNK - REST) / CHUNK; }

// The channels of one thread: some blocks of LANES within a group.
struct Share {
  const ScanProblem& p;
  int64_t b, g, split, first, blocks, chunks;
  float* memory = nullptr;
  Vec* vectors;
  Offsets offsets[5];
  int64_t followed = -1;  // the chunk whose order the offsets follow

  Share(const ScanProblem& p, int64_t index)
      : p(p), offsets{{p.u.channel, p.u.step}, {p.delta.channel, p.delta.step}, {p.z.channel, p.z.step},
                      {p.dout.channel, p.dout.step},
                      {p.order ? 1 : p.length, p.order ? p.dim : 1}} {
    split = index % p.splits;
    g = index / p.splits % p.groups;
    b = index / p.splits / p.groups;
    int64_t all = (p.dim / p.groups + LANES - 1) / LANES;
    first = all * split / p.splits;
    blocks = all * (split + 1) / p.splits - first;
    chunks = chunks_of(p.slots);
  }
  Share(const Share&) = delete;
  ~Share() { std::free(memory); }

  bool allocate(int64_t count) {
    void* raw = nullptr;
    if (posix_memalign(&raw, 64, (count + LANES) * sizeof(Vec))) return false;
    memory = static_cast<float*>(raw);
    vectors = static_cast<Vec*>(raw);
    std::memset(raw, 0, count * sizeof(Vec));
    return true;
  }

  int64_t channel(int64_t block) const { return g * (p.dim / p.groups) + (first + block) * LANES; }
  int lanes(int64_t block) const {
    int64_t left = (g + 1) * (p.dim / p.groups) - channel(block);
    return left < LANES ? left : LANES;
  }
  int steps(int64_t chunk) const {
    return chunk == chunks - 1 ? p.slots - chunk * CHUNK : CHUNK;
  }
  // Of a tile in memory; with an order of the channels at position 0.
  const float* at(const View& view, int64_t block, int64_t chunk) const {
    return view.data + b * view.batch + channel(block) * view.channel + (p.order ? 0 : chunk * CHUNK * view.step);
  }
  int64_t row(int64_t block, int64_t chunk) const {
    if (p.order) return b * p.dim * p.length + channel(block);
    return (b * p.dim + channel(block)) * p.length + chunk * CHUNK;
  }
  void load_view(Vec* tile, const View& view, int64_t block, int64_t chunk) const {
    const float* start = at(view, block, chunk);
    if (!p.order) return load_tile(tile, start, view.channel, view.step, lanes(block), steps(chunk));
    const int64_t* order = p.order + chunk * CHUNK;
    for (int t = 0; t < steps(chunk); t++)
      tile[t] = order[t] < 0 ? Vec{} : load_lanes(start + order[t] * view.step, lanes(block));
  }
  void store(float* target, const Vec* tile, int64_t block, int64_t chunk) const {
    target += row(block, chunk);
    if (!p.order) return store_tile(target, tile, p.length, lanes(block), steps(chunk));
    const int64_t* order = p.order + chunk * CHUNK;
    for (int t = 0; t < steps(chunk); t++)
      if (order[t] >= 0) store_lanes(target + order[t] * p.dim, tile[t], lanes(block));
  }
  // All (B, D, L) tensors that come after (block, chunk), to be read or written.
  Ahead ahead(int64_t block, int64_t chunk) {
    Ahead ahead;
    if (++block == blocks) {
      block = 0;
      chunk += (p.reverse != 0) == (p.dout.data != nullptr) ? 1 : -1;
      if (chunk < 0 || chunk >= chunks) return ahead;
    }
    if (p.order && chunk != followed) {
      for (Offsets& known : offsets) known.follow(p.order + chunk * CHUNK, p.slots - chunk * CHUNK);
      followed = chunk;
    }
    auto add = [&](const float* start, const Offsets& offsets) {
      ahead.streams[ahead.count++] = {reinterpret_cast<const char*>(start), offsets.bytes};
    };
    for (const View* view : {&p.u, &p.delta, &p.z, &p.dout})
      if (view->data)
        add(at(*view, block, chunk), *std::find_if(offsets, offsets + 4, [&](const Offsets& known) {
          return known.channel == view->channel && known.step == view->step;
        }));
    for (const float* target : {p.out, p.du, p.ddelta, p.dz})
      if (target) add(target + row(block, chunk), offsets[4]);
    return ahead;
  }
  float* boundary(int64_t block, int64_t chunk, int64_t n) const {
    return p.saved + ((b * chunks + chunk) * p.state + n) * p.dim + channel(block);
  }
  // (channels, N) in memory -> N vectors, and back. Up to LANES - 1 vectors beyond them are set to zero, or read.
  void load_states(Vec* states, const float* p, int64_t block) const {
    int64_t N = this->p.state;
    for (int64_t n = 0; n < N; n += LANES)
      load_tile(states + n, p + n, N, 1, lanes(block), N - n < LANES ? N - n : LANES);
  }
  void store_states(float* p, const Vec* states, int64_t block) const {
    int64_t N = this->p.state;
    for (int64_t n = 0; n < N; n += LANES)
      store_tile(p + n, states + n, N, lanes(block), N - n < LANES ? N - n : LANES);
  }
  // A, ready for Exp2::units, of (blocks, N), and the largest magnitude over N.
  void load_A(Vec* A, Vec* largest) const {
    for (int64_t block = 0; block < blocks; block++)
      load_states(A + block * p.state, p.A + channel(block) * p.state, block);
    for (int64_t block = 0; block < blocks; block++) {
      VecInt most{};
      for (int64_t n = 0; n < p.state; n++) {
        Vec& a = A[block * p.state + n];
        a *= LOG2E_UNITS;
        most = larger(most, a);
      }
      largest[block] = (Vec)most;
    }
  }
  // B and C of a chunk: [N, steps] each -> [steps, 2 N].
  void unpack(float* maps, int64_t chunk) const {
    for (const Maps* source : {&p.B, &p.C}) {
      if (p.order) unpack_by_order(maps, *source, chunk);
      else unpack_steps(maps, *source, chunk);
      maps += p.state;
    }
  }
  void unpack_steps(float* maps, const Maps& source, int64_t chunk) const {
    const float* start = source.data + b * source.batch + g * source.group + chunk * CHUNK;
    for (int64_t n = 0, N = p.state; n < N; n += LANES) {
      int lanes = N - n < LANES ? N - n : LANES;
      if (lanes >= 4) {
        Vec tile[MOST_STEPS];
        load_tile(tile, start + n * source.state, source.state, 1, lanes, steps(chunk));
        for (int t = 0; t < steps(chunk); t++) store_lanes(maps + t * 2 * N + n, tile[t], lanes);
      } else {  // too few to be worth a transposition
        for (int i = 0; i < lanes; i++)
          for (int t = 0; t < steps(chunk); t++) maps[t * 2 * N + n + i] = start[(n + i) * source.state + t];
      }
    }
  }
  void unpack_by_order(float* maps, const Maps& source, int64_t chunk) const {
    const float* start = source.data + b * source.batch + g * source.group;
    for (int t = 0; t < steps(chunk); t++, maps += 2 * p.state) {
      int64_t position = p.order[chunk * CHUNK + t];
      if (position < 0) std::memset(maps, 0, p.state * sizeof(float));
      else
        for (int64_t n = 0; n < p.state; n++) maps[n] = start[position * source.step + n * source.state];
    }
  }
};

// Whether no exponent of the tile leaves the range of exp2: then the clamps are left out.
inline bool exponents_in_range(const Vec* step, int steps, Vec largest_A) {
  VecInt most{};
  for (int t = 0; t < steps; t++) most = larger(most, step[t]);
  VecInt fits = (Vec)most * largest_A < 126 * UNIT;
  for (int i = 0; i < LANES; i++)
    if (!fits[i]) return false;
  return true;
}

// Calls f with COUNT states from n on, as many as fit.
template <int MOST, class F>
inline void by_states(int64_t N, F f) {
  int64_t n = 0;
  for (; n + MOST <= N; n += MOST) f(n, std::integral_constant<int, MOST>());
  if (MOST > 4 && n + 4 <= N) f(n, std::integral_constant<int, 4>()), n += 4;
  if (MOST > 2 && n + 2 <= N) f(n, std::integral_constant<int, 2>()), n += 2;
  if (n < N) f(n, std::integral_constant<int, 1>());
}

// ---- Forward ----

// COUNT states over the steps of a tile: y[t] += sum C h.
template <int COUNT, bool CLAMP>
inline void advance(const Exp2& exp, const Vec* step, const Vec* x, Vec* y, const float* maps, int64_t N, const Vec* A,
                    Vec* carry, int steps, bool reverse, const Ahead& ahead, int first, int every) {
  const Exp2 local = exp;
  const int64_t way = reverse ? -1 : 1, start = reverse ? steps - 1 : 0, row = way * 2 * N;
  const float *B = maps + start * 2 * N, *C = B + N;
  step += start, x += start, y += start;
  Vec a[COUNT], h[COUNT];
  for (int j = 0; j < COUNT; j++) a[j] = A[j], h[j] = carry[j];
  for (int i = 0; i < steps; i++) {
    ahead.fetch(i, first, every);
    Vec dt = *step, input = *x, sum = *y;
#pragma GCC unroll 8
    for (int j = 0; j < COUNT; j++) {
      h[j] = local.units<CLAMP>(dt * a[j]) * h[j] + input * B[j];
      sum += h[j] * C[j];
    }
    *y = sum;
    step += way, x += way, y += way, B += row, C += row;
  }
  for (int j = 0; j < COUNT; j++) carry[j] = h[j];
}

bool forward_share(const ScanProblem& p, int64_t index) {
  Share share(p, index);
  const Exp2 exp;
  const int64_t N = p.state, blocks = share.blocks;
  if (!share.allocate(2 * blocks * N + blocks + (2 * N * MOST_STEPS + LANES - 1) / LANES)) return false;
  Vec *carry = share.vectors, *A = carry + blocks * N, *largest = A + blocks * N;
  float* maps = reinterpret_cast<float*>(largest + blocks);
  share.load_A(A, largest);
  Vec step[MOST_STEPS], x[MOST_STEPS], y[MOST_STEPS];

  for (int64_t i = 0; i < share.chunks; i++) {
    int64_t chunk = p.reverse ? share.chunks - 1 - i : i;
    int steps = share.steps(chunk);
    share.unpack(maps, chunk);
    for (int64_t block = 0; block < blocks; block++) {
      int lanes = share.lanes(block);
      int64_t channel = share.channel(block);
      if (p.saved)
        for (int64_t n = 0; n < N; n++) store_lanes(share.boundary(block, chunk, n), carry[block * N + n], lanes);
      Vec bias = p.delta_bias ? load_lanes(p.delta_bias + channel, lanes) : Vec{};
      Vec skip = p.D ? load_lanes(p.D + channel, lanes) : Vec{};
      share.load_view(step, p.delta, block, chunk);
      share.load_view(x, p.u, block, chunk);
      for (int t = 0; t < steps; t++) {
        step[t] += bias;
        if (p.softplus) step[t] = softplus(exp, step[t], nullptr);
        y[t] = p.D ? x[t] * skip : Vec{};
        x[t] *= step[t];
      }
      if (lanes < LANES)  // softplus(0) is not 0: keep the lanes beyond the last channel still
        for (int t = 0; t < steps; t++) std::memset(reinterpret_cast<float*>(step + t) + lanes, 0, (LANES - lanes) * 4);
      bool in_range = exponents_in_range(step, steps, largest[block]);
      Ahead ahead = share.ahead(block, chunk);
      int part = 0;
      by_states<8>(N, [&](int64_t n, auto count) {
        constexpr int COUNT = decltype(count)::value;
        auto run = in_range ? advance<COUNT, false> : advance<COUNT, true>;
        run(exp, step, x, y, maps + n, N, A + block * N + n, carry + block * N + n, steps, p.reverse, ahead, part++,
            (N + 7) / 8);
      });
      if (p.z.data) {
        share.load_view(x, p.z, block, chunk);
        for (int t = 0; t < steps; t++) y[t] *= x[t] / (1 + exp.of_minus(x[t]));
      }
      share.store(p.out, y, block, chunk);
    }
  }
  for (int64_t block = 0; block < blocks; block++)
    share.store_states(p.last_state + (p.dim * share.b + share.channel(block)) * N, carry + block * N, block);
  return true;
}

// ---- Backward ----

// The tiles of one block of channels in one structure, so that one register addresses them all.
struct Tiles {
  Vec step[MOST_STEPS], u[MOST_STEPS], y[MOST_STEPS], dy[MOST_STEPS], dx[MOST_STEPS], dstep[MOST_STEPS];
  Vec slope[MOST_STEPS], gate[MOST_STEPS];
};

// COUNT states over the steps of a tile, all kept: of step i in scan order, the states before it and its decays.
template <int COUNT, bool CLAMP>
inline void replay(const Exp2& exp, Tiles& tiles, const float* maps, int64_t N, const Vec* A, Vec* kept, int steps,
                   bool reverse, const Ahead& ahead, int first, int every) {
  const Exp2 local = exp;
  Vec a[COUNT], h[COUNT];
  for (int j = 0; j < COUNT; j++) a[j] = A[j], h[j] = kept[j];
  const int64_t way = reverse ? -1 : 1;
  int64_t t = reverse ? steps - 1 : 0;
  const float* B = maps + t * 2 * N;
  for (int i = 0; i < steps; i++) {
    ahead.fetch(i, first, every);
    Vec dt = tiles.step[t], input = dt * tiles.u[t], sum = tiles.y[t];
#pragma GCC unroll 8
    for (int j = 0; j < COUNT; j++) {
      Vec decay = local.units<CLAMP>(dt * a[j]);
      kept[COUNT + j] = decay;
      h[j] = decay * h[j] + input * B[j];
      kept[2 * COUNT + j] = h[j];
      sum += h[j] * B[N + j];
    }
    tiles.y[t] = sum;
    t += way, B += way * 2 * N, kept += 2 * COUNT;
  }
}

// The way back, g being the gradient of the state. dmaps holds dB and dC, folded; dstep is in units of A.
template <int COUNT>
inline void retreat(Tiles& tiles, const float* maps, Vec* dmaps, int64_t slots, int64_t N, const Vec* A, Vec* dA,
                    Vec* carry, const Vec* kept, int steps, bool reverse, const Ahead& ahead, int first, int every) {
  Vec g[COUNT], da[COUNT];
  for (int j = 0; j < COUNT; j++) g[j] = carry[j], da[j] = dA[j];
  const int64_t way = reverse ? 1 : -1;
  int64_t t = reverse ? 0 : steps - 1;
  const float* B = maps + t * 2 * N;
  dmaps += t * slots;
  kept += (steps - 1) * 2 * COUNT;
  for (int i = 0; i < steps; i++) {
    ahead.fetch(i, first, every);
    Vec d[2 * COUNT];
    Vec dt = tiles.step[t], input = dt * tiles.u[t], dout = tiles.dy[t], sum_x = tiles.dx[t], sum_step = tiles.dstep[t];
#pragma GCC unroll 8
    for (int j = 0; j < COUNT; j++) {
      g[j] += dout * B[N + j];
      sum_x += g[j] * B[j];
      d[j] = g[j] * input;
      d[COUNT + j] = kept[2 * COUNT + j] * dout;
      g[j] *= kept[COUNT + j];
      Vec q = g[j] * kept[j];
      sum_step += q * A[j];
      da[j] += q * dt;
    }
    tiles.dx[t] = sum_x;
    tiles.dstep[t] = sum_step;
    fold<2 * COUNT>(d);
    for (int j = 0; j < vectors_left(2 * COUNT); j++) dmaps[j] += d[j];
    t += way, B += way * 2 * N, dmaps += way * slots, kept -= 2 * COUNT;
  }
  for (int j = 0; j < COUNT; j++) carry[j] = g[j], dA[j] = da[j];
}

// dB and dC of COUNT states of a chunk: folded in dmaps [steps, slots] -> rows of L steps.
template <int COUNT>
inline void unfold(const ScanProblem& p, const Share& share, const Vec* dmaps, int64_t slots, int64_t chunk, int64_t n) {
  constexpr int LEFT = vectors_left(2 * COUNT);
  int64_t row = ((share.split * p.batch + share.b) * p.groups + share.g) * p.state + n;
  int steps = share.steps(chunk);
  for (int t = 0; t < steps; t += LANES) {
    Vec rows[LEFT * LANES];
    for (int v = 0; v < LEFT; v++) {
      for (int i = 0; i < LANES; i++) rows[v * LANES + i] = dmaps[(t + i) * slots + v];
      transpose<LANES / 2>(rows + v * LANES);
    }
#pragma GCC unroll 8
    for (int k = 0; k < 2 * COUNT; k++) {
      float* target = (k < COUNT ? p.dB : p.dC) + (row + k % COUNT) * p.length;
      Vec sums = folded<2 * COUNT>(rows, k);
      int count = steps - t < LANES ? steps - t : LANES;
      if (!p.order) {
        store_lanes(target + chunk * CHUNK + t, sums, count);
        continue;
      }
      const int64_t* order = p.order + chunk * CHUNK + t;
      for (int i = 0; i < count; i++)
        if (order[i] >= 0) target[order[i]] = sums[i];
    }
  }
}

bool backward_share(const ScanProblem& p, int64_t index) {
  constexpr int MOST = 4;  // what is kept of their steps still fits the first cache
  Share share(p, index);
  const Exp2 exp;
  const int64_t N = p.state, blocks = share.blocks;
  const int64_t maps_size = (2 * N * MOST_STEPS + LANES - 1) / LANES;
  const int64_t slots = N / MOST * vectors_left(2 * MOST) + 2;
  if (!share.allocate(3 * blocks * N + 3 * blocks + slots * MOST_STEPS + maps_size)) return false;
  Vec *A = share.vectors, *largest = A + blocks * N, *carry = largest + blocks, *dA = carry + blocks * N;
  Vec *dD = dA + blocks * N, *dbias = dD + blocks, *dmaps = dbias + blocks;
  float* maps = reinterpret_cast<float*>(dmaps + slots * MOST_STEPS);
  share.load_A(A, largest);
  if (p.dlast_state)
    for (int64_t block = 0; block < blocks; block++)
      share.load_states(carry + block * N, p.dlast_state + (p.dim * share.b + share.channel(block)) * N, block);
  Tiles tiles;
  auto& [step, u, y, dy, dx, dstep, slope, gate] = tiles;
  Vec kept[(MOST_STEPS + 1) * 2 * MOST];

  for (int64_t i = share.chunks - 1; i >= 0; i--) {
    int64_t chunk = p.reverse ? share.chunks - 1 - i : i;
    int steps = share.steps(chunk);
    share.unpack(maps, chunk);
    std::memset(dmaps, 0, slots * steps * sizeof(Vec));
    for (int64_t block = 0; block < blocks; block++) {
      int lanes = share.lanes(block);
      int64_t channel = share.channel(block);
      Vec bias = p.delta_bias ? load_lanes(p.delta_bias + channel, lanes) : Vec{};
      Vec skip = p.D ? load_lanes(p.D + channel, lanes) : Vec{};
      share.load_view(step, p.delta, block, chunk);
      share.load_view(u, p.u, block, chunk);
      share.load_view(dy, p.dout, block, chunk);
      if (p.z.data) {
        share.load_view(gate, p.z, block, chunk);
        for (int t = 0; t < steps; t++) {
          Vec sigmoid = 1 / (1 + exp.of_minus(gate[t])), silu = gate[t] * sigmoid;
          gate[t] = dy[t] * (sigmoid + silu * (1 - sigmoid));
          dy[t] *= silu;
        }
      }
      for (int t = 0; t < steps; t++) {
        step[t] += bias;
        if (p.softplus) step[t] = softplus(exp, step[t], slope + t);
        y[t] = p.D ? u[t] * skip : Vec{};
        dx[t] = dstep[t] = Vec{};
      }
      if (lanes < LANES)
        for (int t = 0; t < steps; t++) std::memset(reinterpret_cast<float*>(step + t) + lanes, 0, (LANES - lanes) * 4);
      bool in_range = exponents_in_range(step, steps, largest[block]);
      Ahead ahead = share.ahead(block, chunk);
      int part = 0, parts = 2 * ((N + MOST - 1) / MOST);
      int64_t slot = 0;
      by_states<MOST>(N, [&](int64_t n, auto count) {
        constexpr int COUNT = decltype(count)::value;
        auto run = in_range ? replay<COUNT, false> : replay<COUNT, true>;
        for (int j = 0; j < COUNT; j++) kept[j] = load_lanes(share.boundary(block, chunk, n + j), lanes);
        run(exp, tiles, maps + n, N, A + block * N + n, kept, steps, p.reverse, ahead, part++, parts);
        retreat<COUNT>(tiles, maps + n, dmaps + slot, slots, N, A + block * N + n, dA + block * N + n,
                       carry + block * N + n, kept, steps, p.reverse, ahead, part++, parts);
        slot += vectors_left(2 * COUNT);
      });
      for (int t = 0; t < steps; t++) {
        dstep[t] = dstep[t] * (1 / LOG2E_UNITS) + dx[t] * u[t];
        if (p.softplus) dstep[t] *= slope[t];
        dbias[block] += dstep[t];
        dx[t] *= step[t];
        if (p.D) dx[t] += dy[t] * skip;
        dD[block] += dy[t] * u[t];
        gate[t] *= y[t];
      }
      share.store(p.ddelta, dstep, block, chunk);
      share.store(p.du, dx, block, chunk);
      if (p.z.data) share.store(p.dz, gate, block, chunk);
    }
    int64_t slot = 0;
    by_states<MOST>(N, [&](int64_t n, auto count) {
      constexpr int COUNT = decltype(count)::value;
      unfold<COUNT>(p, share, dmaps + slot, slots, chunk, n);
      slot += vectors_left(2 * COUNT);
    });
  }
  for (int64_t block = 0; block < blocks; block++) {
    int64_t channel = share.b * p.dim + share.channel(block);
    share.store_states(p.dA + channel * N, dA + block * N, block);
    if (p.dD) store_lanes(p.dD + channel, dD[block], share.lanes(block));
    if (p.ddelta_bias) store_lanes(p.ddelta_bias + channel, dbias[block], share.lanes(block));
  }
  return true;
}

// Whether every position has one slot, so that nothing is read out of bounds or left unwritten.
bool is_order(const ScanProblem& p) {
  std::vector<bool> seen(p.length);
  int64_t count = 0;
  for (int64_t s = 0; s < p.slots; s++) {
    int64_t position = p.order[s];
    if (position == -1) continue;
    if (position < 0 || position >= p.length || seen[position]) return false;
    seen[position] = true;
    count++;
  }
  return count == p.length;
}

template <class F>
int in_parallel(const ScanProblem& p, F f) {
  if (p.order && !is_order(p)) return 2;
  int64_t shares = p.batch * p.groups * p.splits;
  int failed = 0;
#pragma omp parallel for schedule(static) num_threads(p.threads) reduction(| : failed) if (p.threads > 1)
  for (int64_t i = 0; i < shares; i++) failed |= !f(p, i);
  return failed;
}

}  // namespace

// Both return 0, 1 where memory ran out, or 2 if the order is none.
extern "C" int scan_forward(const ScanProblem* p) { return in_parallel(*p, forward_share); }
extern "C" int scan_backward(const ScanProblem* p) { return in_parallel(*p, backward_share); }

extern "C" int scan_lanes() { return LANES; }
extern "C" int scan_chunk() { return CHUNK; }

// 2^x without the table: a polynomial of degree 6, Taylor's, to a relative error of 1.3e-7.
inline Vec exp2_polynomial(Vec x) {
  x = rounded(x);
  Vec k = x + Exp2::ROUND;
  Vec r = x - (k - Exp2::ROUND);
  Vec p = 9.618129108e-3f + r * (1.333355815e-3f + r * 1.540353039e-4f);
  p = 1 + r * (0.6931471806f + r * (0.2402265070f + r * (5.550410866e-2f + r * p)));
  return (Vec)((VecInt)p + ((VecInt)k << 23));
}

// `count` x 8 x LANES exponentials from registers to registers: the bounds that the benchmark sets beside the scan.
template <class F>
float exponentials(int64_t count, F exp) {
  Vec a[8], sum[8];
  for (int j = 0; j < 8; j++) a[j] = broadcast(-0.1f * (j + 1)), sum[j] = Vec{};
  Vec dt = broadcast(0.37f);
  for (int64_t i = 0; i < count; i++) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) sum[j] = (Vec)((VecInt)sum[j] ^ (VecInt)exp(dt * a[j]));
    asm volatile("" : "+m"(dt));
  }
  for (int j = 1; j < 8; j++) sum[0] = (Vec)((VecInt)sum[0] ^ (VecInt)sum[j]);
  return sum[0][0];
}

extern "C" float scan_exponentials_table(int64_t count) {
  const Exp2 exp;
  return exponentials(count, [=](Vec x) { return exp.units<false>(x); });
}
extern "C" float scan_exponentials_polynomial(int64_t count) { return exponentials(count, exp2_polynomial); }
