"""What the launchers check before a kernel runs on raw pointers; every refusal is a ValueError of one sentence."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from slimtask.kernels.checks import alike, contiguous, indices, name_of, shape

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LIMIT = 2**31  # offsets inside one sub-task's tensor are 32-bit


def rows(
    index: Tensor,
    count: Tensor,
    weight: Tensor,
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    out: Tensor | None,
    *,
    compact: bool,
    tokens: int | None,
) -> int:
    """Return N, the tokens of a sub-task, after checking what `rows.launch_rows` is given."""
    shape("index", index, None, None)
    shape("weight", weight, index.shape[0], None, None)
    tasks, budget = index.shape
    outputs, inputs = weight.shape[1:]
    shape("count", count, tasks)
    shape("x", x, tasks, budget if compact else None, inputs)
    if not compact:
        tokens = x.shape[1]
    elif out is not None:
        tokens = tokens or out.shape[-2]
    elif residual is not None:
        tokens = tokens or residual.shape[-2]
    tokens = tokens or budget
    if budget > tokens:
        raise ValueError(f"the row budget is {budget} but a sub-task has {tokens} tokens; pack at most {tokens} rows")
    shape("bias", bias, tasks, outputs)
    shape("residual", residual, *([] if residual is None or residual.ndim == 2 else [tasks]), tokens, outputs)
    shape("out", out, tasks, tokens, outputs)
    given = {"weight": weight, "bias": bias, "residual": residual, "out": out}
    alike(x, floats=DTYPES, **given)
    indices(x, index=index, count=count)
    contiguous(**given, x=x, index=index, count=count)
    sizes(tokens * inputs, tokens * outputs, outputs * inputs)
    return tokens


def blocks(
    start: Tensor,
    column: Tensor,
    value: Tensor,
    x: Tensor,
    base: Tensor,
    delta_bias: Tensor | None,
    residual: Tensor | None,
    *,
    tasks: int,
) -> None:
    """Check what `blocks.launch_blocks` is given."""
    shape("x", x, None, None)
    shape("base", base, x.shape[0], None)
    shape("value", value, None, None, None)
    height, width = value.shape[1:]
    if any(side < 16 or side & (side - 1) for side in (height, width)):
        raise ValueError(
            f"blocks are {height} x {width}, but both sides must be powers of two from 16; pack in such blocks"
        )
    shape("column", column, value.shape[0])
    shape("start", start, tasks * -(-base.shape[1] // height) + 1)
    shape("delta_bias", delta_bias, tasks, base.shape[1])
    shape("residual", residual, *base.shape)
    given = {"value": value, "delta_bias": delta_bias, "residual": residual}
    alike(x, floats=DTYPES, **given)
    if base.dtype not in DTYPES or base.device != x.device or not base.is_contiguous():
        raise ValueError(
            f"base is {name_of(base.dtype)} on {base.device}; give a contiguous float tensor on {x.device}"
        )
    indices(x, start=start, column=column)
    contiguous(**given, x=x, start=start, column=column)
    sizes(x.numel(), base.numel())


def sizes(*elements: int) -> None:
    """Raise unless 32-bit offsets reach every element of one sub-task's tensors."""
    if max(elements) >= LIMIT:
        raise ValueError(f"one tensor of a sub-task has {max(elements)} elements; a launch takes fewer than {LIMIT}")


def precision(dtype: torch.dtype) -> str:
    """Return the input precision of a product: float32 stays IEEE float32, never TF32 behind the caller's back."""
    return "ieee" if dtype == torch.float32 else "tf32"


def interpreted() -> bool:
    """Return whether Triton runs kernels in its interpreter."""
    from triton import knobs

    return bool(knobs.runtime.interpret)


def sm(tensor: Tensor) -> int:
    """Return the compute capability of the tensor's device as one number, 90 for 9.0; 80 in the interpreter."""
    if tensor.device.type != "cuda":
        if interpreted():
            return 80
        raise ValueError(f"x is on {tensor.device}, where Triton kernels do not run; move it to a CUDA device")
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return 10 * major + minor


def on(tensor: Tensor) -> AbstractContextManager[object]:
    """Return the context in which a launch goes to the tensor's device."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()
