"""How a function becomes an operator of the namespace ``slimtask``: on every device, traced, and fast on CUDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.library import custom_op


def operator(
    schema: str,
    standard: Callable[..., Tensor],
    *,
    fake: Callable[..., Tensor],
    launch: Callable[..., Tensor | None] | None = None,
) -> Callable[..., Tensor]:
    """Return the operator of ``schema``, "name(arguments) -> Tensor"; its calls go through `torch.ops.slimtask`.

    Args:
        schema: its name, parameters and result.
        standard: computes it in standard operators, on any device.
        fake: returns an empty tensor like its result, for tracing.
        launch: computes it on a CUDA device, or returns None where no kernel fits; then ``standard`` does it.
    """
    name, parenthesis, rest = schema.partition("(")
    made = custom_op(f"slimtask::{name}", standard, mutates_args=(), schema=parenthesis + rest)
    made.register_fake(fake)

    if launch is not None:
        made.register_kernel("cuda")(_launched(launch, standard))
    return made


def _launched(launch: Callable[..., Tensor | None], standard: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def on_cuda(*arguments: Any, **named: Any) -> Tensor:
        result = launch(*arguments, **named)
        return standard(*arguments, **named) if result is None else result

    return on_cuda
