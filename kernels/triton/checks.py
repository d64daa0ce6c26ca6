"""What the launchers check before a kernel runs on raw pointers; every refusal is a ValueError of one sentence."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

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
    shape("index", index, (None, None))
    shape("weight", weight, (index.shape[0], None, None))
    tasks, budget = index.shape
    outputs, inputs = weight.shape[1:]
    shape("count", count, (tasks,))
    shape("x", x, (tasks, budget, inputs) if compact else (tasks, None, inputs))
    if not compact:
        tokens = x.shape[1]
    elif out is not None:
        tokens = tokens or out.shape[-2]
    elif residual is not None:
        tokens = tokens or residual.shape[-2]
    tokens = tokens or budget
    if budget > tokens:
        raise ValueError(f"the row budget is {budget} but a sub-task has {tokens} tokens; pack at most {tokens} rows")
    if bias is not None:
        shape("bias", bias, (tasks, outputs))
    if residual is not None:
        shape("residual", residual, (tokens, outputs) if residual.ndim == 2 else (tasks, tokens, outputs))
    if out is not None:
        shape("out", out, (tasks, tokens, outputs))
    floats(x, weight=weight, bias=bias, residual=residual, out=out, x=x)
    integers(x, index=index, count=count)
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
    shape("x", x, (None, None))
    shape("base", base, (x.shape[0], None))
    shape("value", value, (None, None, None))
    height, width = value.shape[1:]
    if any(side < 16 or side & (side - 1) for side in (height, width)):
        raise ValueError(
            f"blocks are {height} x {width}, but both sides must be powers of two from 16; pack in such blocks"
        )
    shape("column", column, (value.shape[0],))
    shape("start", start, (tasks * -(-base.shape[1] // height) + 1,))
    if delta_bias is not None:
        shape("delta_bias", delta_bias, (tasks, base.shape[1]))
    if residual is not None:
        shape("residual", residual, tuple(base.shape))
    floats(x, value=value, delta_bias=delta_bias, residual=residual, x=x)
    if base.dtype not in DTYPES or base.device != x.device or not base.is_contiguous():
        raise ValueError(f"base is {name(base.dtype)} on {base.device}; give a contiguous float tensor on {x.device}")
    integers(x, start=start, column=column)
    sizes(x.numel(), base.numel())


def shape(what: str, tensor: Tensor, expected: tuple[int | None, ...]) -> None:
    """Raise unless the tensor has the expected shape; None stands for any length."""
    fits = tensor.ndim == len(expected) and all(e in (None, s) for s, e in zip(tensor.shape, expected, strict=True))
    if not fits:
        wanted = [("any" if size is None else size) for size in expected]
        raise ValueError(
            f"{what} has shape {list(tensor.shape)}; the other arguments ask for {wanted}".replace("'", "")
        )


def floats(like: Tensor, **tensors: Tensor | None) -> None:
    """Raise unless all are contiguous, on the device of ``like`` and of its dtype."""
    if like.dtype not in DTYPES:
        raise ValueError(f"x is {name(like.dtype)}; give {', '.join(map(name, DTYPES[:-1]))} or {name(DTYPES[-1])}")
    for what, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.dtype != like.dtype or tensor.device != like.device:
            raise ValueError(
                f"{what} is {name(tensor.dtype)} on {tensor.device} but x is {name(like.dtype)} on {like.device}; "
                "give both alike"
            )
        contiguous(what, tensor)


def integers(like: Tensor, **tensors: Tensor) -> None:
    """Raise unless all are contiguous int32 on the device of ``like``."""
    for what, tensor in tensors.items():
        if tensor.dtype != torch.int32 or tensor.device != like.device:
            raise ValueError(f"{what} is {name(tensor.dtype)} on {tensor.device}; give int32 on {like.device}")
        contiguous(what, tensor)


def contiguous(what: str, tensor: Tensor) -> None:
    """Raise unless the tensor is contiguous: kernels compute addresses from sizes alone."""
    if not tensor.is_contiguous():
        raise ValueError(f"{what} is not contiguous; call .contiguous() on it")


def sizes(*elements: int) -> None:
    """Raise unless 32-bit offsets reach every element of one sub-task's tensors."""
    if max(elements) >= LIMIT:
        raise ValueError(f"one tensor of a sub-task has {max(elements)} elements; a launch takes fewer than {LIMIT}")


def name(dtype: torch.dtype) -> str:
    """Return "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


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
