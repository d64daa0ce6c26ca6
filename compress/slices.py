"""The slices of a weight that go with a channel: rows for a filter, rows again for a reader's input slice."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from slimtask.compress.groups import Member

FILTERS = frozenset({"conv", "depthwise", "grouped", "linear"})
NORMS = frozenset({"batchnorm", "layernorm"})


def filter_rows(
    module: nn.Module, side: Literal["out", "in"], values: Tensor | None = None
) -> Float[Tensor, "size slice"]:
    """Return row i = all weights of output i (``side`` "out") or input i ("in") of a convolution or linear layer.

    ``values`` of the weight's shape are arranged instead of the weight. Transposed and grouped convolutions are laid
    out like plain ones: [groups, outputs, inputs, taps] first.
    """
    weight = module.weight if values is None else values
    assert isinstance(weight, Tensor)
    groups = int(getattr(module, "groups", 1))
    split = weight.detach().reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    if getattr(module, "transposed", False):  # stored with the inputs first
        split = split.transpose(1, 2)
    if side == "in":
        split = split.transpose(1, 2)
    return split.flatten(0, 1).flatten(1)


def sum_per_channel(values: Float[Tensor, " size"], member: Member, channels: int) -> Float64[Tensor, " channels"]:
    """Return the values of the member's entries added up per channel of the group, on the CPU."""
    total = torch.zeros(channels, dtype=torch.float64)
    return total.index_add_(0, member.channel, values.detach().double().cpu()[member.local])
