// (G) Deltas of single entries on the CUDA cores, all sub-tasks in one launch:
//   y[t] = act(base + x D_t^T + db_t) + residual
//
// ELEMENT  BFloat16, Half or float; BASE: ELEMENT or float
// ROWS     tokens of a tile, a power of two; 256 threads
// RESIDENT 1: the tile's x^T, all K inputs of it, is in shared memory. 0: it is read through the cache, for any K.
//
// The input is x transposed, [K, pitch], pitch the multiple of 8 from N on, so that the tokens of one input are
// neighbours: a lane has one 4-byte word of them (two tokens of 16 bits, one of 32) per entry, and 16 outputs. With
// fewer words in a row than lanes, the warp's lanes form groups with 16 outputs each. Entries are read by all lanes
// of a group at one address.
#include "tile.cuh"

constexpr int THREADS = 256;
constexpr int OUTPUTS = 16;                              // of a group: two 16-byte stores of 16-bit elements
constexpr int PAIR = 4 / sizeof(ELEMENT);                // tokens of a word
constexpr int ROW_WORDS = ROWS / PAIR;                   // words of a row of the tile
constexpr int LANES = ROW_WORDS < 32 ? ROW_WORDS : 32;   // of a group
constexpr int WORDS = ROW_WORDS / LANES;                 // of a lane
constexpr int UNIT = OUTPUTS * (32 / LANES);             // outputs of a warp
constexpr int UNIT_COST = UNIT * 4;                      // what a unit's epilogue costs, in entries

union Word {
  unsigned bits;
  ELEMENT element[PAIR];
};

struct Tile {
  const ELEMENT* x;
  int pitch, tokens, token;

  DEVICE Word at(int input, int word) const {
    const ELEMENT* row = x + static_cast<long long>(input) * pitch;
    if constexpr (RESIDENT) {
      return reinterpret_cast<const Word*>(row)[word];
    } else {
      Word result;
      for (int i = 0; i < PAIR; ++i) {
        const int at = token + word * PAIR + i;
        result.element[i] = at < tokens ? row[at] : ELEMENT{0};
      }
      return result;
    }
  }
};

// Rows of x^T into shared memory, side by side; tokens beyond the row are zeros.
DEVICE void load_tile(ELEMENT* to, const ELEMENT* x, int inputs, int pitch, int token) {
  constexpr int CHUNK = 16 / sizeof(ELEMENT), PARTS = ROWS / CHUNK;
  for (int i = threadIdx.x; i < inputs * PARTS; i += THREADS) {
    const int at = token + i % PARTS * CHUNK;
    const ELEMENT* row = x + static_cast<long long>(i / PARTS) * pitch;
    copy_16(to + i * CHUNK, at < pitch ? row + at : x, at < pitch);
  }
  commit_copies();
  wait_copies<0>();
  __syncthreads();
}

// The 16 outputs of a group over its lane's tokens.
DEVICE void run_unit(const Tile& tile, const Epilogue& epilogue, const int* start, const int* column,
                     const ELEMENT* value, int task, int first) {
  const int lane = threadIdx.x % LANES;
  float sums[WORDS * PAIR][OUTPUTS] = {};
  bool empty = true;
#pragma unroll
  for (int i = 0; i < OUTPUTS; ++i) {
    const int output = first + i;
    if (output >= epilogue.outputs) break;
    const long long row = static_cast<long long>(task) * epilogue.outputs + output;
    const int end = start[row + 1];
#pragma unroll 4
    for (int entry = start[row]; entry < end; ++entry) {
      const float weight = to_float(value[entry]);
      const int input = column[entry];
      empty = false;
#pragma unroll
      for (int w = 0; w < WORDS; ++w) {
        const Word word = tile.at(input, w * LANES + lane);
#pragma unroll
        for (int p = 0; p < PAIR; ++p) sums[w * PAIR + p][i] += weight * to_float(word.element[p]);
      }
    }
  }
  if (empty && (epilogue.flags & SKIP_EMPTY)) return;
#pragma unroll
  for (int t = 0; t < WORDS * PAIR; ++t) {
    const int token = tile.token + (t / PAIR * LANES + lane) * PAIR + t % PAIR;
#pragma unroll
    for (int half = 0; half < OUTPUTS; half += 8) {
      Eight<BASE> base;
      float sum[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i] = sums[t][half + i];
      epilogue.load_base(base, token, first + half);
      epilogue.finish(base, sum, task, token, first + half);
    }
  }
}

// start [T * M + 1], column [entries], value [entries], x [K, pitch], base [N, M], delta_bias [T, M], residual [N, M],
// y [T, N, M]
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    csr(const int* start, const int* column, const ELEMENT* value, const ELEMENT* x, const BASE* base,
        const ELEMENT* delta_bias, const ELEMENT* residual, int tasks, int tokens, int outputs, int inputs, int pitch,
        int flags, ELEMENT* y) {
  const int per_task = (outputs + UNIT - 1) / UNIT, units = per_task * tasks;
  auto cost = [&](int unit) {
    const long long row = static_cast<long long>(unit / per_task) * outputs + unit % per_task * UNIT;
    return static_cast<long long>(start[row]) + static_cast<long long>(UNIT_COST) * unit;
  };
  const Epilogue epilogue(base, delta_bias, residual, y, tokens, outputs, flags);
  const Range range = share(cost, units, (tokens + ROWS - 1) / ROWS);
  ELEMENT* shared = reinterpret_cast<ELEMENT*>(dynamic_shared());
  for (long long next = range.begin; next < range.end;) {
    const int tile = next / units, first = next % units;
    const int last = range.end - next < units - first ? first + static_cast<int>(range.end - next) : units;
    if constexpr (RESIDENT) {
      __syncthreads();  // nobody reads the tile before this one
      load_tile(shared, x, inputs, pitch, tile * ROWS);
    }
    const Tile resident{RESIDENT ? shared : x, RESIDENT ? ROWS : pitch, tokens, tile * ROWS};
    for (int unit = first + threadIdx.x / 32; unit < last; unit += THREADS / 32)
      run_unit(resident, epilogue, start, column, value, unit / per_task,
               unit % per_task * UNIT + threadIdx.x % 32 / LANES * OUTPUTS);
    next += last - first;
  }
}
