// What the kernels need of the hardware, in one place: element types, shared memory, asynchronous copies, tensor cores.
// No CUDA header is included: NVRTC alone compiles this. With SLIMTASK_HOST defined, simulator.h has the same names
// for a CPU, where the tests run the kernels' own source.
#pragma once

struct BFloat16 { unsigned short bits; };
struct Half { unsigned short bits; };
struct alignas(16) Words { unsigned word[4]; };

#ifdef SLIMTASK_HOST
#include "simulator.h"
#else

#define DEVICE __device__ __forceinline__

DEVICE unsigned char* dynamic_shared() {
  extern __shared__ Words shared_memory[];
  return reinterpret_cast<unsigned char*>(shared_memory);
}

DEVICE unsigned shared_address(const void* pointer) { return static_cast<unsigned>(__cvta_generic_to_shared(pointer)); }

// 16 bytes from global to shared memory, without registers; zeros where not `valid`.
DEVICE void copy_16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}

DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Wait until at most PENDING groups of this thread's copies are on their way.
template <int PENDING>
DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
template <bool TRANSPOSED>
DEVICE void load_matrices(unsigned (&to)[4], const void* row) {
  if constexpr (TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

#define SLIMTASK_MMA(TYPE)                                                                                   \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, " \
               "{%8, %9}, {%0, %1, %2, %3};"                                                                 \
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                                      \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(low), "r"(high))

// sum[16, 8] += a[16, 16] b[16, 8], fragments as PTX lays them out; low and high are the two halves of b along k.
template <class Element>
DEVICE void multiply_add(float (&sum)[4], const unsigned (&a)[4], unsigned low, unsigned high);

template <>
DEVICE void multiply_add<BFloat16>(float (&sum)[4], const unsigned (&a)[4], unsigned low, unsigned high) {
  SLIMTASK_MMA("bf16");
}

template <>
DEVICE void multiply_add<Half>(float (&sum)[4], const unsigned (&a)[4], unsigned low, unsigned high) {
  SLIMTASK_MMA("f16");
}

DEVICE float to_float(float value) { return value; }
DEVICE float to_float(BFloat16 value) { return __uint_as_float(static_cast<unsigned>(value.bits) << 16); }
DEVICE float to_float(Half value) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
}

// Round to nearest, ties to even.
DEVICE void from_float(float value, float& to) { to = value; }
DEVICE void from_float(float value, BFloat16& to) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(value)); }
DEVICE void from_float(float value, Half& to) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(value)); }

#endif
