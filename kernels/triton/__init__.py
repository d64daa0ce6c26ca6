"""Triton kernels of the delta layers, their tiles, and the variants that are compiled ahead of time.

Importing this package imports neither torch nor triton; `rows` and `blocks` need both.
"""
