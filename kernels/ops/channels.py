"""Changed output channels (A): one product with [W | changed channels of every sub-task].

The changed channels are computed with their merged weights, not corrected, so the sub-tasks' outputs stay compact: what
all share, once, and p channels each. `complete` builds whole ones for whoever needs them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from slimtask.kernels import checks
from slimtask.kernels.checks import Size
from slimtask.kernels.ops.register import operator
from slimtask.kernels.ops.tensors import finished, settled, wide


def appended(
    weight: Tensor, bias: Tensor | None, channel: Tensor, value: Tensor, delta_bias: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return weights [M + T p, K] and biases [M + T p]: the base's, then every sub-task's changed channels, merged.

    To be made once, when weights are loaded.

    Args:
        weight: the base's [M, K].
        bias: the base's [M].
        channel: an OutChannelLayout's channels [T, p],
        value: its values [T, p, K], and
        delta_bias: its biases [T, p], or None.
    """
    checks.indices(weight, channel=channel)
    checks.alike(weight, bias=bias, value=value, delta_bias=delta_bias)
    tasks, changed = channel.shape
    checks.shape("value", value, tasks, changed, weight.shape[1])
    checks.shape("bias", bias, len(weight))
    checks.shape("delta_bias", delta_bias, tasks, changed)
    checks.below("channel", channel, len(weight))
    number = channel.flatten()
    exact = wide(weight.dtype)
    merged = weight.index_select(0, number).to(exact) + value.flatten(0, 1).to(exact)
    weights = torch.cat([weight, merged.to(weight.dtype)])
    if bias is None and delta_bias is None:
        return weights, None
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    own = bias.index_select(0, number).to(exact)
    own = own if delta_bias is None else own + delta_bias.flatten().to(exact)
    return weights, torch.cat([bias, own.to(weight.dtype)])


def out_channels(
    channel: Tensor,
    weights: Tensor,
    x: Tensor,
    biases: Tensor | None = None,
    residual: Tensor | None = None,
    gelu: bool = False,
) -> Tensor:
    """Return act(x W^T + b) + residual of the base and of all changed channels, [N, M + T p]; `split` takes it apart.

    ``weights`` and ``biases`` are those of `appended`; ``residual`` is [N, M]. On a CUDA device the product is the
    library's own, which rounds to the dtype of ``x`` before GELU and residual as well.
    """
    outputs = _check(channel, weights, x, biases, residual)
    if residual is not None:
        checks.below("channel", channel, outputs)
        residual = torch.cat([residual, residual.index_select(1, channel.flatten())], dim=1)
    if x.device.type == "cuda":
        return finished(F.linear(x, weights, biases), None, residual, gelu=gelu, dtype=x.dtype)
    total = F.linear(x.to(wide(x.dtype)), weights.to(wide(x.dtype)))
    return finished(total, biases, residual, gelu=gelu, dtype=x.dtype)


def split(extended: Tensor, channel: Tensor) -> tuple[Tensor, Tensor]:
    """Return the base's [..., M] and the changed channels [T, ..., p], both views of ``extended`` [..., M + T p]."""
    tasks, changed = channel.shape
    outputs = extended.shape[-1] - tasks * changed
    base, tail = extended.narrow(-1, 0, outputs), extended.narrow(-1, outputs, tasks * changed)
    return base, tail.reshape(*tail.shape[:-1], tasks, changed).movedim(-2, 0)


def complete(base: Tensor, changed: Tensor, channel: Tensor, count: Tensor) -> Tensor:
    """Return every sub-task's whole output [T, ..., M]: ``base`` [..., M], its changed channels overwritten."""
    whole = base.expand(len(channel), *base.shape)
    place = channel.long().reshape(len(channel), *[1] * (base.ndim - 1), -1)
    return whole.scatter(-1, place.expand_as(changed), settled(changed, count, base.ndim))


def places(channel: Tensor, count: Tensor, outputs: int) -> Tensor:
    """Return where every sub-task's outputs lie [T, M] among those of `out_channels`, for `assemble`: once, at loading.

    Args:
        channel: an OutChannelLayout's channels [T, p], and
        count: how many of them count [T].
        outputs: M, those of the base.
    """
    tasks, changed = channel.shape
    base = torch.arange(outputs, device=channel.device).expand(tasks, -1)
    number = outputs + torch.arange(tasks * changed, device=channel.device).view(tasks, changed)
    return base.scatter(1, channel.long(), settled(number, count, 1)) if changed else base.clone()


def assemble(extended: Tensor, places: Tensor) -> Tensor:
    """Return every sub-task's whole output [T, N, M] of the output [N, M + T p] of `out_channels`, in one launch.

    `complete` does the same in some ten launches, which on a CPU are faster than one gather of everything.
    """
    tasks, outputs = places.shape
    tokens, width = extended.shape
    return extended.expand(tasks, tokens, width).gather(2, places[:, None].expand(tasks, tokens, outputs))


def _check(
    channel: Tensor, weights: Tensor, x: Tensor, biases: Tensor | None = None, residual: Tensor | None = None, *_: bool
) -> Size:
    checks.alike(x, weights=weights, biases=biases, residual=residual)
    checks.indices(x, channel=channel)
    checks.shape("channel", channel, None, None)
    checks.shape("x", x, None, None)
    checks.shape("weights", weights, None, x.shape[1])
    outputs = weights.shape[0] - channel.numel()
    if outputs < 1:
        raise ValueError(f"weights have {len(weights)} rows for {channel.numel()} changed channels; append them first.")
    checks.shape("biases", biases, weights.shape[0])
    checks.shape("residual", residual, x.shape[0], outputs)
    return outputs


def _fake(channel: Tensor, weights: Tensor, x: Tensor, *rest: object) -> Tensor:
    _check(channel, weights, x, *rest)  # type: ignore[arg-type]
    return x.new_empty(x.shape[0], weights.shape[0])


delta_out_channels = operator(
    "delta_out_channels(Tensor channel, Tensor weights, Tensor x, Tensor? biases=None, Tensor? residual=None, "
    "bool gelu=False) -> Tensor",
    out_channels,
    fake=_fake,
)
