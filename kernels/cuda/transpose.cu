// x [N, K] to x^T [K, pitch], zeros beyond N: what `vectors` and `csr` read. 256 threads, 64 x 64 elements a block.
#include "device.cuh"

constexpr int SIDE = 64;

extern "C" __global__ void __launch_bounds__(256)
    transpose(const ELEMENT* x, int tokens, int inputs, int pitch, ELEMENT* y) {
  ELEMENT* tile = reinterpret_cast<ELEMENT*>(dynamic_shared());  // rows of 64 elements and one word, against conflicts
  constexpr int PITCH = SIDE + 4 / sizeof(ELEMENT);
  const int across = (inputs + SIDE - 1) / SIDE;
  const int token = blockIdx.x / across * SIDE, input = blockIdx.x % across * SIDE;
  for (int i = threadIdx.x; i < SIDE * SIDE; i += 256) {
    const int row = token + i / SIDE, column = input + i % SIDE;
    const bool valid = row < tokens && column < inputs;
    tile[i / SIDE * PITCH + i % SIDE] = valid ? x[static_cast<long long>(row) * inputs + column] : ELEMENT{0};
  }
  __syncthreads();
  for (int i = threadIdx.x; i < SIDE * SIDE; i += 256) {
    const int row = input + i / SIDE, column = token + i % SIDE;
    if (row < inputs && column < pitch)
      y[static_cast<long long>(row) * pitch + column] = tile[i % SIDE * PITCH + i / SIDE];
  }
}
