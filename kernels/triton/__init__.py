"""Triton kernels of the delta layers, their tiles, and what a compiler makes of them without a GPU.

Importing this package imports neither torch nor triton; `rows` and `blocks` need both.
"""
