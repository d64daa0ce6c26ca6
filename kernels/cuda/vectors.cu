// (D) Deltas whose HEIGHT neighbouring outputs share one list of inputs, all sub-tasks in one launch:
//   y[t] = act(base + x D_t^T + db_t) + residual
//
// ELEMENT BFloat16 or Half; BASE ELEMENT or float; HEIGHT 32 or 64; ROWS tokens of a tile; STAGES pieces in shared
// memory at a time.
//
// The input is x transposed, [K, pitch], pitch the multiple of 8 from N on. Then a listed input is one contiguous row
// of ROWS tokens, asynchronous 16-byte copies gather the listed rows side by side into shared memory, and `ldmatrix`
// with transposition makes the tensor cores' fragments of them without bank conflicts. The alternative, x^T resident
// in shared memory and arbitrary rows as ldmatrix addresses, saves traffic from L2 but reads rows that collide in
// banks (2.6 times the cycles for a random list), needs 2 ROWS K bytes, and has to pay for the resident tile before
// the first product; lists of a sparse delta are too short for that.
#include "tile.cuh"

constexpr int CHUNK = 64;  // inputs of a piece
constexpr int THREADS = ROWS * HEIGHT / 32;
constexpr int BLOCKS = 2;  // of a multiprocessor
constexpr int WARPS_OUT = HEIGHT / 32;

struct Source {
  const int* column;
  const ELEMENT *value, *x;
  ELEMENT* stages;
  int tasks, length, pitch, tiles, token;
  const ELEMENT* piece_values;
  int count;

  static constexpr int PITCH = ROWS + 8;  // of a gathered row: eight rows lie in different banks
  static constexpr int STAGE = HEIGHT * CHUNK + CHUNK * PITCH;
  static constexpr int PARTS = ROWS / 8;  // 16-byte parts of a row
  static constexpr int COPIES = CHUNK * PARTS / THREADS;
  int columns[COPIES];

  DEVICE int pieces(int) const { return (length + CHUNK - 1) / CHUNK; }

  DEVICE void look(int unit, int piece) {
    const long long list = unit % tasks * tiles + unit / tasks;
    const int* inputs = column + list * length + piece * CHUNK;
    piece_values = value + list * HEIGHT * length + piece * CHUNK;
    count = smaller(CHUNK, length - piece * CHUNK);
#pragma unroll
    for (int i = 0; i < COPIES; ++i) {
      const int at = (threadIdx.x + i * THREADS) / PARTS;
      columns[i] = at < count ? inputs[at] : 0;
    }
  }

  DEVICE void issue(int stage) const {
    ELEMENT* to = stages + stage * STAGE;
    for (int i = threadIdx.x; i < HEIGHT * 8; i += THREADS)
      if (i % 8 * 8 < count)
        copy_16(to + value_offset(i / 8, i % 8), piece_values + i / 8 * length + i % 8 * 8, true);
#pragma unroll
    for (int i = 0; i < COPIES; ++i) {
      const int at = (threadIdx.x + i * THREADS) / PARTS, part = (threadIdx.x + i * THREADS) % PARTS * 8;
      if (at < count) copy_x(to + HEIGHT * CHUNK + at * PITCH + part, columns[i], token + part);
    }
  }

  // Eight tokens of an input, zeros beyond the row.
  DEVICE void copy_x(ELEMENT* to, int input, int at) const {
    const ELEMENT* row = x + static_cast<long long>(input) * pitch;
    copy_16(to, at < pitch ? row + at : x, at < pitch);
  }

  DEVICE void multiply(Sums& sums, int stage, int, int piece) const {
    const int warp = threadIdx.x / 32;
    const ELEMENT* values = stages + stage * STAGE;
    ::multiply<true>(sums, values + HEIGHT * CHUNK + warp / WARPS_OUT * 32, PITCH,
                     values + warp % WARPS_OUT * 32 * CHUNK, smaller(4, (length - piece * CHUNK) / 16));
  }
};

// column [T, ceil(M / HEIGHT), length], value [T, ceil(M / HEIGHT), HEIGHT, length], x [K, pitch], base [N, M],
// delta_bias [T, M], residual [N, M], y [T, N, M]; length is a multiple of 16
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    vectors(const int* column, const ELEMENT* value, const ELEMENT* x, const BASE* base, const ELEMENT* delta_bias,
            const ELEMENT* residual, int tasks, int tokens, int outputs, int pitch, int length, int flags,
            ELEMENT* y) {
  const int tiles = (outputs + HEIGHT - 1) / HEIGHT, units = tiles * tasks, warp = threadIdx.x / 32;
  Source source{column, value, x};
  source.stages = reinterpret_cast<ELEMENT*>(dynamic_shared());
  source.tasks = tasks, source.length = length, source.pitch = pitch, source.tiles = tiles;

  const Epilogue epilogue(base, delta_bias, residual, y, tokens, outputs, flags);
  auto cost = [](int unit) { return static_cast<long long>(unit); };
  const Range range = share(cost, units, (tokens + ROWS - 1) / ROWS);
  for (long long next = range.begin; next < range.end;) {
    const int tile = next / units, first = next % units;
    const int last = range.end - next < units - first ? first + static_cast<int>(range.end - next) : units;
    source.token = tile * ROWS;
    WarpTile part(epilogue);
    auto begin = [](int) {};
    auto finish = [&](int unit, const Sums& sums, int) {
      part.place(tile * ROWS + warp / WARPS_OUT * 32, unit / tasks * HEIGHT + warp % WARPS_OUT * 32);
      part.finish<false>(sums, unit % tasks);  // the registers are those of a second thread block
    };
    stream<STAGES>(source, first, last, begin, finish);
    next += last - first;
  }
}
