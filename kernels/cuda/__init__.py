"""CUDA C++ kernels of the delta layers: sources, NVRTC compilation, launches on torch's tensors.

`blocks` streams 64 x 64 blocks through the tensor cores, `vectors` gathers listed inputs for them, `csr` sums single
entries on the CUDA cores; `transpose` prepares the input of the last two. Importing this package imports neither torch
nor CUDA: `launch` needs torch and cuda-bindings.
"""
