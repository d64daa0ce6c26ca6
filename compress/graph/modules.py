"""Modules whose channels can be sliced: their kinds, their sides, and the slices that go with a channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

FILTERS = frozenset({"conv", "depthwise", "grouped", "linear"})
NORMS = frozenset({"batchnorm", "layernorm"})

Kind = Literal["conv", "depthwise", "grouped", "linear", "batchnorm", "layernorm", "parameter"]
Side = Literal["out", "in"]


@dataclass(frozen=True, kw_only=True)
class Member:
    """One side of one module in a group: its index ``local[j]`` belongs to the group's channel ``channel[j]``.

    Several entries may belong to one channel: a flattened map, an attention head, a whole group of a grouped
    convolution. Of kind "parameter" is the axis ``axis`` of a bare parameter or buffer of the module, ``parameter``.
    """

    module: str
    kind: Kind
    side: Side
    local: Int64[Tensor, " entries"]
    channel: Int64[Tensor, " entries"]
    parameter: str = ""
    axis: int = 0


def kind_of(module: nn.Module) -> Kind:
    """Return the kind of a module whose channels can be sliced, "parameter" for any other."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return _kind_of_convolution(module)
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return "batchnorm"
    return "layernorm" if isinstance(module, nn.LayerNorm | nn.GroupNorm) else "parameter"


def _kind_of_convolution(module: nn.modules.conv._ConvNd) -> Kind:
    if module.groups == 1:
        return "conv"
    if module.groups == module.in_channels == module.out_channels:
        return "depthwise"
    return "parameter" if module.transposed else "grouped"  # transposed, the first axis runs over the inputs


def channel_sizes(module: nn.Module) -> tuple[int, int]:
    """Return (outputs, inputs) of a convolution, linear layer or normalisation."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.out_channels, module.in_channels
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[-1], module.normalized_shape[-1]
    if isinstance(module, nn.GroupNorm):
        return module.num_channels, module.num_channels
    assert isinstance(module, nn.modules.batchnorm._NormBase)
    return module.num_features, module.num_features


def slice_axis(module: nn.Module, side: Literal["out", "in"]) -> int:
    """Return the axis of the module's weight that runs over its outputs or its inputs."""
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd) and module.groups == 1
    return int((side == "in") != transposed)


def axis_of(member: Member, model: nn.Module) -> tuple[str, int]:
    """Return the tensor of ``model``, by name, and the axis of it that the member's entries count."""
    if member.kind == "parameter":
        return member.parameter, member.axis
    prefix = f"{member.module}." if member.module else ""
    module = model.get_submodule(member.module)
    if member.kind in ("batchnorm", "layernorm"):
        leaf = "weight" if getattr(module, "weight", None) is not None else "running_mean"
        return f"{prefix}{leaf}", 0
    return f"{prefix}weight", slice_axis(module, member.side)


def axes_of(member: Member, module: nn.Module) -> list[tuple[str, int]]:
    """Return the (parameter, axis) pairs that go with the member's entries."""
    if member.kind == "parameter":
        return [(member.parameter, member.axis)]
    prefix = f"{member.module}." if member.module else ""
    if member.side == "in":
        return [(f"{prefix}weight", slice_axis(module, "in"))]
    return [(f"{prefix}weight", slice_axis(module, "out")), (f"{prefix}bias", 0)]


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
