// (C) Deltas in blocks of 64 outputs by 64 inputs, all sub-tasks in one launch:
//   y[t] = act(base + x D_t^T + db_t) + residual
//
// ELEMENT   BFloat16 or Half; BASE: ELEMENT or float
// ROWS      tokens of a tile, a multiple of 32; ROWS * 2 threads, each warp 32 tokens by 32 outputs
// RESIDENT  1: the tile's x, all K inputs of it, stays in shared memory and only blocks are streamed, ROWS FLOP per
//           byte from L2. 0: 64 inputs of x come along with every block, 64 ROWS / (ROWS + 64) FLOP per byte, for any
//           K and little shared memory. The first pays once a thread block meets about as many blocks as x has block
//           columns.
// STAGES    blocks in shared memory at a time
//
// Units are ordered output tile first, sub-task last, so that neighbours share a tile of the base in registers.
#include "tile.cuh"

constexpr int SIDE = 64;
constexpr int THREADS = ROWS * 2;
// Of a multiprocessor: a resident tile takes the shared memory of the second, a float base its registers.
constexpr int BLOCKS = RESIDENT || sizeof(BASE) == 4 ? 1 : 2;
constexpr int UNIT_COST = 2;  // what a unit's epilogue costs, in blocks

DEVICE int padded(int inputs) { return (inputs + SIDE - 1) / SIDE * SIDE; }

struct Source {
  const int *start, *column;
  const ELEMENT *value, *x;
  ELEMENT *x_tile, *stages;
  int* columns;  // of the blocks in the stages
  int tasks, tokens, inputs, tiles, token;
  bool wide;
  int block, block_column;

  static constexpr int PITCH = SIDE + 8;  // of x in a stage: eight rows lie in different banks
  static constexpr int STAGE = SIDE * SIDE + (RESIDENT ? 0 : ROWS * PITCH);

  DEVICE int pitch() const { return RESIDENT ? padded(inputs) + 8 : PITCH; }
  DEVICE int row(int unit) const { return unit % tasks * tiles + unit / tasks; }
  DEVICE int pieces(int unit) const { return start[row(unit) + 1] - start[row(unit)]; }

  DEVICE void look(int unit, int piece) {
    block = start[row(unit)] + piece;
    block_column = column[block];
  }

  // Eight inputs of a token, zeros beyond the edges of x.
  DEVICE void copy_x(ELEMENT* to, int row, int input) const {
    const int at = token + row;
    if (wide) {
      const bool valid = at < tokens && input < inputs;
      copy_16(to, x + (valid ? static_cast<long long>(at) * inputs + input : 0), valid);
    } else {
      for (int i = 0; i < 8; ++i) {
        const bool valid = at < tokens && input + i < inputs;
        to[i] = valid ? x[static_cast<long long>(at) * inputs + input + i] : ELEMENT{0};
      }
    }
  }

  DEVICE void load_tile() const {
    for (int row = threadIdx.x / 32; row < ROWS; row += THREADS / 32)
      for (int input = threadIdx.x % 32 * 8; input < padded(inputs); input += 256)
        copy_x(x_tile + row * pitch() + input, row, input);
    commit_copies();
  }

  DEVICE void issue(int stage) const {
    ELEMENT* to = stages + stage * STAGE;
    const ELEMENT* from = value + static_cast<long long>(block) * SIDE * SIDE;
    for (int i = threadIdx.x; i < SIDE * 8; i += THREADS) copy_16(to + value_offset(i / 8, i % 8), from + i * 8, true);
    if constexpr (!RESIDENT)
      for (int i = threadIdx.x; i < ROWS * 8; i += THREADS)
        copy_x(to + SIDE * SIDE + i / 8 * PITCH + i % 8 * 8, i / 8, block_column * SIDE + i % 8 * 8);
    if (threadIdx.x == 0) columns[stage] = block_column;
  }

  DEVICE void multiply(Sums& sums, int stage, int, int) const {
    const int warp = threadIdx.x / 32;
    const ELEMENT* values = stages + stage * STAGE;
    const ELEMENT* tile = RESIDENT ? x_tile + columns[stage] * SIDE : values + SIDE * SIDE;
    ::multiply<false>(sums, tile + warp / 2 * 32 * pitch(), pitch(), values + warp % 2 * 32 * SIDE, 4);
  }
};

// start [T * ceil(M / 64) + 1], column [blocks], value [blocks, 64, 64], x [N, K], base [N, M], delta_bias [T, M],
// residual [N, M], y [T, N, M]
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    blocks(const int* start, const int* column, const ELEMENT* value, const ELEMENT* x, const BASE* base,
           const ELEMENT* delta_bias, const ELEMENT* residual, int tasks, int tokens, int outputs, int inputs,
           int flags, ELEMENT* y) {
  const int tiles = (outputs + SIDE - 1) / SIDE, units = tiles * tasks, warp = threadIdx.x / 32;
  auto cost = [&](int unit) {
    const int tile = unit / tasks, task = unit % tasks;
    long long sum = static_cast<long long>(UNIT_COST) * unit;
    for (int t = 0; t < tasks; ++t) sum += start[t * tiles + smaller(tile + (t < task), tiles)] - start[t * tiles];
    return sum;
  };
  Source source{start, column, value, x};
  source.x_tile = reinterpret_cast<ELEMENT*>(dynamic_shared());
  source.stages = source.x_tile + (RESIDENT ? ROWS * (padded(inputs) + 8) : 0);
  source.columns = reinterpret_cast<int*>(source.stages + STAGES * Source::STAGE);
  source.tasks = tasks, source.tokens = tokens, source.inputs = inputs, source.tiles = tiles;
  source.wide = inputs % 8 == 0 && aligned(x);

  const Epilogue epilogue(base, delta_bias, residual, y, tokens, outputs, flags);
  const Range range = share(cost, units, (tokens + ROWS - 1) / ROWS);
  for (long long next = range.begin; next < range.end;) {
    const int tile = next / units, first = next % units;
    const int last = range.end - next < units - first ? first + static_cast<int>(range.end - next) : units;
    source.token = tile * ROWS;
    if constexpr (RESIDENT) source.load_tile();
    WarpTile part(epilogue);
    auto begin = [&](int unit) {
      if (unit != first && unit % tasks != 0) return;
      part.place(tile * ROWS + warp / 2 * 32, unit / tasks * SIDE + warp % 2 * 32);
      part.load();
    };
    auto finish = [&](int unit, const Sums& sums, int pieces) {
      if (pieces > 0 || !(flags & SKIP_EMPTY)) part.finish<true>(sums, unit % tasks);
    };
    stream<STAGES>(source, first, last, begin, finish);
    next += last - first;
  }
}
