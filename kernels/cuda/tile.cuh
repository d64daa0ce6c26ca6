// What the kernels share: an equal share of the work for every thread block, the epilogue, the ring of copies.
//
// N tokens, M outputs, K inputs, T sub-tasks. A unit is one output tile of one sub-task; a thread block keeps to one
// tile of tokens while it goes through units.
#pragma once
#include "device.cuh"

enum Flag { GELU = 1, DELTA_BIAS = 2, RESIDUAL = 4, SKIP_EMPTY = 8 };

struct Range {
  long long begin, end;
};

DEVICE int smaller(int a, int b) { return a < b ? a : b; }
DEVICE bool aligned(const void* pointer) { return (reinterpret_cast<unsigned long long>(pointer) & 15) == 0; }

// The first of all (tile of tokens, unit) pairs, tile by tile, at which `part` of `parts` equal parts of the work is
// done. cost(u) is the work of a tile before unit u; it rises. All threads of the block must call this.
template <class Cost>
DEVICE long long boundary(const Cost& cost, int units, int tiles, int part, int parts) {
  const long long total = cost(units), target = total * tiles * part / parts;
  const long long tile = target / total, within = target % total;
  int before = 0;
  for (int first = 0; first < units; first += blockDim.x) {
    const int unit = first + threadIdx.x;
    before += __syncthreads_count(unit < units && cost(unit) < within);
  }
  return tile * units + before;
}

template <class Cost>
DEVICE Range share(const Cost& cost, int units, int tiles) {
  return {boundary(cost, units, tiles, blockIdx.x, gridDim.x), boundary(cost, units, tiles, blockIdx.x + 1, gridDim.x)};
}

// Eight elements that are neighbours in memory.
template <class Element>
struct alignas(16) Eight {
  Element element[8];

  static constexpr int WORDS = 8 * sizeof(Element) / sizeof(Words);

  // `wide`: `from` is on 16 bytes. Beyond `valid` elements zeros.
  DEVICE void load(const Element* from, int valid, bool wide) {
    if (wide && valid >= 8) {
#pragma unroll
      for (int i = 0; i < WORDS; ++i) reinterpret_cast<Words*>(element)[i] = reinterpret_cast<const Words*>(from)[i];
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) element[i] = i < valid ? from[i] : Element{0};
    }
  }

  DEVICE void store(Element* to, int valid, bool wide) const {
    if (wide && valid >= 8) {
#pragma unroll
      for (int i = 0; i < WORDS; ++i) reinterpret_cast<Words*>(to)[i] = reinterpret_cast<const Words*>(element)[i];
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i)
        if (i < valid) to[i] = element[i];
    }
  }

  DEVICE void add_to(float (&sum)[8]) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] += to_float(element[i]);
  }
};

// y = act(base + sum + delta bias) + residual, added in float32 and rounded once.
// BASE is the type of the base: ELEMENT, or float, which saves it one rounding.
struct Epilogue {
  const BASE* base;           // [N, M]
  const ELEMENT* delta_bias;  // [T, M]
  const ELEMENT* residual;    // [N, M]
  ELEMENT* y;                 // [T, N, M]
  int tokens, outputs, flags;
  bool wide;

  DEVICE Epilogue(const BASE* base, const ELEMENT* delta_bias, const ELEMENT* residual, ELEMENT* y, int tokens,
                  int outputs, int flags)
      : base(base), delta_bias(delta_bias), residual(residual), y(y), tokens(tokens), outputs(outputs), flags(flags),
        wide(outputs % 8 == 0 && aligned(base) && aligned(y) && (!(flags & DELTA_BIAS) || aligned(delta_bias)) &&
             (!(flags & RESIDUAL) || aligned(residual))) {}

  DEVICE long long offset(int token, int output) const { return static_cast<long long>(token) * outputs + output; }

  // What output `output` and the seven after it have of the base at token `token`.
  DEVICE void load_base(Eight<BASE>& to, int token, int output) const {
    to.load(base + offset(token, output), token < tokens ? outputs - output : 0, wide);
  }

  DEVICE void finish(const Eight<BASE>& base_8, float (&sum)[8], int task, int token, int output) const {
    const int valid = outputs - output;
    if (token >= tokens || valid <= 0) return;
    base_8.add_to(sum);
    Eight<ELEMENT> eight;
    if (flags & DELTA_BIAS) {
      eight.load(delta_bias + offset(task, output), valid, wide);
      eight.add_to(sum);
    }
    if (flags & GELU) {
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i] = 0.5f * sum[i] * (1.f + erff(sum[i] * 0.70710678118654752f));
    }
    if (flags & RESIDUAL) {
      eight.load(residual + offset(token, output), valid, wide);
      eight.add_to(sum);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) from_float(sum[i], eight.element[i]);
    eight.store(y + static_cast<long long>(task) * tokens * outputs + offset(token, output), valid, wide);
  }
};

// The sums of one warp: 32 tokens by 32 outputs, as 2 x 4 fragments of m16n8.
using Sums = float[2][4][4];

// Value tiles are rows of 64 inputs, one row per output, their 16-byte chunks exchanged so that the eight rows that one
// 8 x 8 matrix takes lie in different banks. Those are not neighbours: a lane's fragments j = 0..3 hold outputs
// 8q + 2j and 8q + 2j + 1 of its warp (q = lane % 4), so that it owns eight consecutive outputs, one 16-byte store.
DEVICE int value_offset(int row, int chunk) { return row * 64 + ((chunk ^ ((row & 1) | ((row >> 2) & 6))) * 8); }

// sums += x v^T over `steps` times 16 inputs. x holds the warp's 32 tokens in shared memory, as rows of inputs or,
// TRANSPOSED, as one row of tokens per input; rows are `pitch` elements apart. v are the warp's 32 rows of values.
template <bool TRANSPOSED>
DEVICE void multiply(Sums& sums, const ELEMENT* x, int pitch, const ELEMENT* values, int steps) {
  const int lane = threadIdx.x % 32, eighth = lane % 8, quarter = lane / 8;
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    if (step >= steps) break;
    unsigned a[2][4], b[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const int token = m * 16 + (quarter % 2) * 8, input = step * 16 + (quarter / 2) * 8;
      if constexpr (TRANSPOSED) load_matrices<true>(a[m], x + (input + eighth) * pitch + token);
      else load_matrices<false>(a[m], x + (token + eighth) * pitch + input);
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int row = (eighth / 2) * 8 + (n * 2 + quarter / 2) * 2 + eighth % 2;
      load_matrices<false>(b[n], values + value_offset(row, step * 2 + quarter % 2));
    }
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int n = 0; n < 4; ++n) multiply_add<ELEMENT>(sums[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
  }
}

// The warp's 32 x 32 part of a tile in the epilogue: every lane has four tokens and eight consecutive outputs.
struct WarpTile {
  const Epilogue& epilogue;
  int token, output;  // the lane's first
  Eight<BASE> base[4];

  DEVICE WarpTile(const Epilogue& epilogue) : epilogue(epilogue) {}

  DEVICE void place(int first_token, int first_output) {
    token = first_token + threadIdx.x % 32 / 4;
    output = first_output + threadIdx.x % 4 * 8;
  }

  DEVICE void load(int row) { epilogue.load_base(base[row], token + row * 8, output); }

  DEVICE void load() {
#pragma unroll
    for (int row = 0; row < 4; ++row) load(row);
  }

  // Of rows that are not LOADED the base is read now, which takes fewer registers.
  template <bool LOADED>
  DEVICE void finish(const Sums& sums, int task) {
#pragma unroll
    for (int row = 0; row < 4; ++row) {
      if constexpr (!LOADED) load(row);
      float sum[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i] = sums[row / 2][i / 2][row % 2 * 2 + i % 2];
      epilogue.finish(base[row], sum, task, token + row * 8, output);
    }
  }
};

// Goes through the pieces of units first..last - 1 with DEPTH - 1 of them on their way into shared memory. A source has
//   pieces(unit)       how many it has
//   look(unit, piece)  begins to read, into registers, where the piece lies
//   issue(stage)       starts the copies of the piece looked at last
//   multiply(sums, stage, unit, piece)
// begin(unit) and finish(unit, sums, pieces) frame each unit.
template <int DEPTH, class Source, class Begin, class Finish>
DEVICE void stream(Source& source, int first, int last, const Begin& begin, const Finish& finish) {
  int ahead = first, piece_ahead = 0, left = source.pieces(first);
  auto look = [&] {
    while (left == 0 && ++ahead < last) {
      piece_ahead = 0;
      left = source.pieces(ahead);
    }
    if (left > 0) source.look(ahead, piece_ahead);
  };
  auto fetch = [&](int stage) {
    if (left > 0) {
      source.issue(stage);
      ++piece_ahead;
      --left;
      look();
    }
    commit_copies();  // also when empty: groups are counted
  };
  look();
#pragma unroll 1
  for (int stage = 0; stage < DEPTH - 1; ++stage) fetch(stage);
  int stage = 0;
  for (int unit = first; unit < last; ++unit) {
    begin(unit);
    Sums sums = {};
    const int pieces = source.pieces(unit);
    for (int piece = 0; piece < pieces; ++piece) {
      wait_copies<DEPTH - 2>();
      __syncthreads();  // every thread's copies are here, and nobody reads the stage that is filled next
      fetch((stage + DEPTH - 1) % DEPTH);
      source.multiply(sums, stage, unit, piece);
      stage = (stage + 1) % DEPTH;
    }
    finish(unit, sums, pieces);
  }
  wait_copies<0>();
  __syncthreads();  // the next tile of tokens begins with free stages
}
