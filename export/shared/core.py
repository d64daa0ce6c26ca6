"""The two residual branches as ``second(middle(first(norm(x))))``, of one task or of several stacked tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from slimtask.kernels.units import Layer, attend, columns_of, padded_rows, rows_of, widen

At = Callable[[str, Tensor], Tensor]
X = Float[Tensor, "*batch tokens _"]


class Layers(NamedTuple):
    """Norm, first and second layer; stacked over tasks, they have one more dimension in front."""

    norm: Layer
    first: Layer
    second: Layer

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Layers:
        """Return the layers of a part's tensors by name ("first.weight")."""
        return cls(*(Layer(tensors[f"{n}.weight"], tensors[f"{n}.bias"]) for n in cls._fields))


class Tensors(nn.Module):
    """Tensors by name, as buffers, so that they move and convert with the module."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name.replace(".", "_"), tensor.detach().clone().contiguous())

    def __contains__(self, name: str) -> bool:
        return name.replace(".", "_") in self._buffers

    def __getitem__(self, name: str) -> Tensor:
        return self.get_buffer(name.replace(".", "_"))

    def layer(self, name: str) -> Layer:
        """Return the layer of that name."""
        return Layer(self[f"{name}.weight"], self[f"{name}.bias"])


class MlpCore:
    """Units are hidden units, GELU is between the layers."""

    name = "mlp"

    def count(self, first: Layer) -> int:
        """Return the number of hidden units."""
        return len(first.weight)

    def rows(self, units: Tensor, count: int) -> Tensor:
        """Return the rows of the first layer that belong to ``units``."""
        return units

    def columns(self, units: Tensor) -> Tensor:
        """Return the columns of the second layer that read ``units``."""
        return units

    def widen(self, first: Layer, rows: Sequence[Layer]) -> Layer:
        """Return the first layer with the ``rows`` of more units behind its own."""
        return widen(first, rows)

    def padded(self, rows: Layer, size: int) -> Layer:
        """Return the rows of ``size`` units, those added all zero."""
        return padded_rows(rows, size)

    def pick(self, first: Tensor, units: slice | Tensor) -> Tensor:
        """Return the first layer's output for some of its units."""
        return first[..., units] if isinstance(units, slice) else first.index_select(-1, units)

    def middle(self, first: Tensor) -> Tensor:
        """Return GELU."""
        return F.gelu(first)


class AttentionCore:
    """Units are heads of ``width`` channels, attention is between the layers."""

    name = "attention"

    def __init__(self, width: int) -> None:
        self.width = width

    def count(self, first: Layer) -> int:
        """Return heads."""
        return len(first.weight) // (3 * self.width)

    def rows(self, units: Tensor, count: int) -> Tensor:
        """Return the rows of the first layer that belong to ``units``."""
        return rows_of(units, count, self.width)

    def columns(self, units: Tensor) -> Tensor:
        """Return the columns of the second layer that read ``units``."""
        return columns_of(units, self.width)

    def widen(self, first: Layer, rows: Sequence[Layer]) -> Layer:
        """Return the first layer with the ``rows`` of more units behind its own."""
        return widen(first, rows, 3)

    def padded(self, rows: Layer, size: int) -> Layer:
        """Return the rows of ``size`` units, those added all zero."""
        return padded_rows(rows, size * self.width, 3)

    def pick(self, first: Tensor, units: slice | Tensor) -> Tensor:
        """Return the first layer's output for some of its units."""
        heads = first.reshape(*first.shape[:-1], 3, -1, self.width)
        picked = heads[..., units, :] if isinstance(units, slice) else heads.index_select(-2, units)
        return picked.flatten(-3)

    def middle(self, first: Tensor) -> Tensor:
        """Return the attended values, heads side by side."""
        mixed = attend(first.flatten(0, -3), self.width)
        return mixed.view(*first.shape[:-1], -1)


Core = MlpCore | AttentionCore
"""What attention and MLP do differently: their units, and what is between the two layers."""


def run(x: X, layers: Layers, core: Core, eps: float, at: At | None = None) -> X:
    """Return the branch's output for ``x``; ``at`` sees and replaces the values at the sites."""
    at = at or _unchanged
    if core.name == "attention":
        hidden = at("qkv", linear(at("norm1", normalise(x, layers.norm, eps)), layers.first))
        return at("proj", linear(core.middle(hidden), layers.second))
    hidden = at("fc1", linear(at("norm2", normalise(x, layers.norm, eps)), layers.first))
    return at("fc2", linear(at("act", core.middle(hidden)), layers.second))


def normalise(x: X, norm: Layer, eps: float) -> X:
    """Return LayerNorm over the last dimension; stacked weights [tasks, width] take [tasks, ...]."""
    width = x.shape[-1:]
    if norm.weight.dim() == 1:
        return F.layer_norm(x, width, norm.weight, norm.bias, eps)
    weight, bias = (part[:, None, None, :] for part in norm)
    return F.layer_norm(x, width, eps=eps) * weight + bias


def linear(x: X, layer: Layer) -> X:
    """Return x W^T + b; with stacked weights [tasks, out, in] one batched product over x [tasks, batch, tokens, in]."""
    if layer.weight.dim() == 2:
        return F.linear(x, *layer)
    out = torch.baddbmm(layer.bias.unsqueeze(1), x.flatten(1, 2), layer.weight.transpose(1, 2))
    return out.view(*x.shape[:-1], -1)


def _unchanged(site: str, value: Tensor) -> Tensor:
    return value
