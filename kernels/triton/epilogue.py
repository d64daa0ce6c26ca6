"""What every Triton kernel here ends with, and the small differences between a compiler and the interpreter."""
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from typing import no_type_check

import triton
from triton import language as tl

GELU_SCALE = tl.constexpr(0.7071067811865476)  # 1 / sqrt(2)


@triton.jit
@no_type_check
def multiply(a, b, accumulator, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    """Return accumulator + a @ b in float32.

    Triton's interpreter multiplies the bit patterns of bfloat16 (triton issues 11584, 4972), hence the casts there.
    """
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, accumulator, input_precision=PRECISION)


@triton.jit
@no_type_check
def gelu(x):
    """Return the exact GELU, x * Phi(x) by the error function, as torch.nn.GELU() does."""
    return 0.5 * x * (1.0 + tl.erf(x * GELU_SCALE))
