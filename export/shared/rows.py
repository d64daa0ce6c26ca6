"""A fixed number of rows: chosen by size, gathered, put back. Static shapes, no NonZero: CUDA graphs can hold it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from slimtask.compress.structures.patterns import row_norms

Stream = Float[Tensor, "batch tokens width"]
AnyStream = Float[Tensor, "*tasks batch tokens width"]


def freshest(own: AnyStream, base: Stream, count: int) -> Int64[Tensor, " rows"]:
    """Return the ``count`` rows of each image in which ``own`` differs most from ``base`` (Euclidean norm).

    They are numbers of rows of the flattened [batch * tokens, width], of several streams [tasks * batch * tokens,
    width]; the same choice as ``patterns.Rows``.
    """
    in_order = torch.compiler.is_exporting()  # costs a launch, and TensorRT takes no other TopK
    chosen = row_norms(own - base).flatten(0, -2).topk(count, dim=1, sorted=in_order).indices
    tokens = own.shape[-2]
    first = torch.arange(0, len(chosen) * tokens, tokens, device=own.device)
    return (chosen + first.unsqueeze(1)).flatten()


def take(x: Stream, rows: Int64[Tensor, " rows"]) -> Float[Tensor, "batch few width"]:
    """Return the rows of every image, equally many each."""
    return x.flatten(0, 1).index_select(0, rows).view(len(x), -1, x.shape[-1])


def put(x: Stream, rows: Int64[Tensor, " rows"], values: Float[Tensor, "batch few width"]) -> Stream:
    """Return ``x`` with ``values`` in its ``rows``."""
    return x.flatten(0, 1).index_put((rows,), values.flatten(0, 1)).view(x.shape)
