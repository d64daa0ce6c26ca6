// One GPU thread block at a time on a CPU: every thread is a fiber, and what device.cuh names is done by its
// definition.
//
// Faults are made visible instead of fast: shared memory starts as NaN and the bytes after it are guarded; asynchronous
// copies happen at the last moment allowed, and until then their destination is NaN, so that a missing wait, a missing
// barrier and a stage overwritten too early all give NaN; the fibers run in an order that a seed chooses; threads that
// wait for one another for ever are reported.
#pragma once
// Few headers: tests compile this once for every variant.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include <ucontext.h>

#define DEVICE inline
#define __global__
#define __launch_bounds__(...)

extern "C" float erff(float);

struct Dim {
  int x = 0;
};
inline Dim threadIdx, blockIdx, blockDim, gridDim;

namespace simulator {

struct Fault {
  const char* what;
};

struct Copy {
  void* to;
  const void* from;
  bool valid;
};

struct Barrier {
  int arrived = 0, generation = 0, sum = 0, total = 0;
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool done = false;
  std::vector<std::vector<Copy>> groups{{}};
  unsigned parity = 0;
};

struct Lane {
  const void* address;
  unsigned a[4], b[2];
};

struct Warp {
  Barrier barrier;
  Lane lanes[2][32];
};

inline std::vector<Fiber> fibers;
inline std::vector<Warp> warps;
inline Barrier block;
inline ucontext_t scheduler;
inline std::vector<unsigned char> memory;
inline std::size_t shared_bytes = 0;
inline long long progress = 0;
inline const char* failure = nullptr;
inline void (*body)(void*);
inline void* body_argument;

inline Fiber& self() { return fibers[threadIdx.x]; }

inline void yield() {
  const int me = threadIdx.x;
  swapcontext(&fibers[me].context, &scheduler);
  threadIdx.x = me;
}

inline int arrive(Barrier& barrier, int threads, int number) {
  const int generation = barrier.generation;
  barrier.sum += number;
  if (++barrier.arrived == threads) {
    barrier.total = std::exchange(barrier.sum, 0);
    barrier.arrived = 0;
    ++barrier.generation;
    ++progress;
  } else {
    while (barrier.generation == generation) yield();
  }
  return barrier.total;
}

// Puts what this lane brings where its warp sees it; returns what all 32 brought.
inline const Lane* exchange(const Lane& mine) {
  Warp& warp = warps[threadIdx.x / 32];
  Lane* lanes = warp.lanes[self().parity++ % 2];
  lanes[threadIdx.x % 32] = mine;
  arrive(warp.barrier, 32, 0);
  return lanes;
}

inline void check_shared(const void* at) {
  const auto* byte = static_cast<const unsigned char*>(at);
  if (byte < memory.data() || byte + 16 > memory.data() + shared_bytes || (byte - memory.data()) % 16 != 0)
    throw Fault{"a copy or ldmatrix outside shared memory or off 16 bytes"};
}

inline void entry() {
  try {
    body(body_argument);
    for (const auto& group : self().groups)
      if (!group.empty()) throw Fault{"a thread ended with copies on their way"};
  } catch (const Fault& fault) {
    failure = fault.what;
  }
  self().done = true;
  ++progress;
  swapcontext(&self().context, &scheduler);
}

inline void run_block(unsigned& seed) {
  std::memset(memory.data(), 0xFF, memory.size());
  warps.assign((blockDim.x + 31) / 32, Warp{});
  block = Barrier{};
  for (Fiber& fiber : fibers) {
    fiber.done = false;
    fiber.groups.assign(1, {});
    fiber.parity = 0;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
  }
  std::vector<int> order(fibers.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    seed = seed * 1664525 + 1013904223;
    const std::size_t other = (seed >> 8) % (i + 1);
    order[i] = order[other];
    order[other] = i;
  }
  for (bool alive = true; alive;) {
    alive = false;
    const long long before = progress;
    for (int thread : order) {
      if (fibers[thread].done) continue;
      alive = true;
      threadIdx.x = thread;
      swapcontext(&scheduler, &fibers[thread].context);
      if (failure) throw Fault{failure};
    }
    if (alive && progress == before) throw Fault{"threads wait for one another for ever"};
  }
  for (std::size_t i = shared_bytes; i < memory.size(); ++i)
    if (memory[i] != 0xFF) throw Fault{"a write beyond shared memory"};
}

template <class... Arguments, std::size_t... I>
void call(void (*kernel)(Arguments...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<Arguments*>(arguments[I])...);
}

// Runs a kernel with its arguments as cuLaunchKernel takes them; 0, or 1 after printing what went wrong.
template <class... Arguments>
int launch(void (*kernel)(Arguments...), void** arguments, int grid, int threads, int shared, unsigned seed) {
  struct Call {
    void (*kernel)(Arguments...);
    void** arguments;
  } it{kernel, arguments};
  body_argument = &it;
  body = [](void* at) {
    call(static_cast<Call*>(at)->kernel, static_cast<Call*>(at)->arguments, std::index_sequence_for<Arguments...>{});
  };
  shared_bytes = shared;
  memory.assign(shared + 4096, 0xFF);
  failure = nullptr;
  gridDim.x = grid;
  blockDim.x = threads;
  fibers = std::vector<Fiber>(threads);
  for (Fiber& fiber : fibers) fiber.stack.resize(64 * 1024);
  try {
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x) run_block(seed);
  } catch (const Fault& fault) {
    std::fprintf(stderr, "block %d: %s\n", blockIdx.x, fault.what);
    return 1;
  }
  return 0;
}

}  // namespace simulator

inline void __syncthreads() { simulator::arrive(simulator::block, blockDim.x, 0); }
inline int __syncthreads_count(bool yes) { return simulator::arrive(simulator::block, blockDim.x, yes); }

inline unsigned char* dynamic_shared() { return simulator::memory.data(); }

inline void copy_16(void* shared, const void* global, bool valid) {
  simulator::check_shared(shared);
  if (reinterpret_cast<std::uintptr_t>(global) % 16 != 0) throw simulator::Fault{"a copy from off 16 bytes"};
  std::memset(shared, 0xFF, 16);
  simulator::self().groups.back().push_back({shared, global, valid});
}

inline void commit_copies() { simulator::self().groups.emplace_back(); }

template <int PENDING>
void wait_copies() {
  auto& groups = simulator::self().groups;  // the last one is open, not committed
  while (groups.size() > PENDING + 1) {
    for (const auto& copy : groups.front()) {
      if (copy.valid) std::memcpy(copy.to, copy.from, 16);
      else std::memset(copy.to, 0, 16);
    }
    groups.erase(groups.begin());
  }
}

template <bool TRANSPOSED>
void load_matrices(unsigned (&to)[4], const void* row) {
  simulator::check_shared(row);
  const auto* lanes = simulator::exchange({row, {}, {}});
  const int lane = threadIdx.x % 32;
  for (int matrix = 0; matrix < 4; ++matrix) {
    unsigned pair[2];
    for (int i = 0; i < 2; ++i) {
      const int y = TRANSPOSED ? lane % 4 * 2 + i : lane / 4, x = TRANSPOSED ? lane / 4 : lane % 4 * 2 + i;
      pair[i] = static_cast<const unsigned short*>(lanes[matrix * 8 + y].address)[x];
    }
    to[matrix] = pair[0] | pair[1] << 16;
  }
}

inline float to_float(float value) { return value; }
inline float to_float(BFloat16 value) {
  const unsigned bits = static_cast<unsigned>(value.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, 4);
  return wide;
}
inline float to_float(Half value) {
  _Float16 half;
  std::memcpy(&half, &value, 2);
  return half;
}

inline void from_float(float value, float& to) { to = value; }
inline void from_float(float value, BFloat16& to) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  to.bits = value != value ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}
inline void from_float(float value, Half& to) {
  const _Float16 half = static_cast<_Float16>(value);
  std::memcpy(&to, &half, 2);
}

template <class Element>
float half_of(unsigned word, int high) {
  return to_float(Element{static_cast<unsigned short>(high ? word >> 16 : word)});
}

template <class Element>
void multiply_add(float (&sum)[4], const unsigned (&a)[4], unsigned low, unsigned high) {
  const auto* lanes = simulator::exchange({nullptr, {a[0], a[1], a[2], a[3]}, {low, high}});
  const int lane = threadIdx.x % 32;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      const int holder = k % 8 / 2;
      const float left = half_of<Element>(lanes[row % 8 * 4 + holder].a[row / 8 + k / 8 * 2], k % 2);
      sum[i] += left * half_of<Element>(lanes[column * 4 + holder].b[k / 8], k % 2);
    }
  }
}
