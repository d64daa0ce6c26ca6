// The kernel of SOURCE, named KERNEL, behind one C function for ctypes.
#include SOURCE

extern "C" int launch(void** arguments, int grid, int threads, int shared, unsigned seed) {
  return simulator::launch(KERNEL, arguments, grid, threads, shared, seed);
}
