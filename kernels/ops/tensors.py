"""Layouts as tensors, and the few rules that all operators share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from slimtask.kernels import dtypes
from slimtask.kernels.checks import Size
from slimtask.kernels.layouts import Layout


class Shared(NamedTuple):
    """What the operators on a shared input take behind the arrays of their layout, in that order."""

    x: Tensor  # [N, K]
    base: Tensor  # [N, M]
    delta_bias: Tensor | None = None  # [T, M]
    residual: Tensor | None = None  # [N, M]
    gelu: bool = False


def tensors_of(layout: Layout, device: torch.device | str | None = None) -> dict[str, Tensor]:
    """Return copies of the arrays of ``layout``, by name, in the order in which operators take them."""
    return {name: tensor_of(array, device) for name, array in layout.arrays().items()}


def tensor_of(array: Shaped[np.ndarray, "..."], device: torch.device | str | None = None) -> Shaped[Tensor, "..."]:
    """Return a copy of ``array`` on ``device``; uint16 and ml_dtypes.bfloat16 become bfloat16."""
    if array.dtype in (np.uint16, dtypes.bfloat16()):
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).to(device)
    return torch.from_numpy(array.copy()).to(device)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that sums of products are made in: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def finished(total: Tensor, bias: Tensor | None, residual: Tensor | None, *, gelu: bool, dtype: torch.dtype) -> Tensor:
    """Return act(total + bias) + residual, made in the dtype of ``total`` and rounded to ``dtype`` once."""
    if bias is not None:
        total = total + bias.to(total.dtype)
    if gelu:
        total = torch.nn.functional.gelu(total)
    if residual is not None:
        total = total + residual.to(total.dtype)
    return total.to(dtype).contiguous()


def settled(values: Tensor, count: Tensor, dim: int) -> Tensor:
    """Return ``values`` [T, ..., length, ...] with the last of every task's ``count`` [T] in place of what comes after.

    What fills a list up is computed as well, but a product may round it otherwise: once settled, writing a row or
    channel twice writes the same numbers, in whatever order.
    """
    place = torch.minimum(torch.arange(values.shape[dim], device=values.device), (count[:, None] - 1).clamp(min=0))
    shape = [1] * values.ndim
    shape[0], shape[dim] = place.shape
    return values.gather(dim, place.long().reshape(shape).expand_as(values))


def blocks_of(count: Size, size: Size) -> Size:
    """Return how many blocks of ``size`` cover ``count``."""
    return (count + size - 1) // size
