"""Patterns: which entries of a tensor a sparse structure can only keep or give up together.

A pattern divides a tensor into *units*; a mask has the pattern if every unit is whole or empty. Unstructured masks
keep what matters most and run no faster; the others do (blocks for a tensor core, channels of a smaller product).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from pydantic import Field
from torch import Tensor

from slimtask.errors import InputError
from slimtask.tasks import Frozen

Shape = tuple[int, ...]
Side = Literal["out", "in"]
Extent = Annotated[int, Field(ge=1, le=2**16)]


class Cost(NamedTuple):
    """The numbers that a masked tensor needs: ``values`` of its entries, ``indices`` of its units."""

    values: int
    indices: int


class _Units(Frozen):
    """A division of tensors into units; the units of a tensor are numbered 0 .. ``units(shape) - 1``."""

    def units(self, shape: Shape) -> int:
        """Return the number of units of a tensor of ``shape``; InputError if the pattern does not fit the shape."""
        raise NotImplementedError

    def expand(self, units: Shaped[Tensor, " units"], shape: Shape) -> Shaped[Tensor, "..."]:
        """Return a tensor of ``shape`` whose every entry is the value of its unit."""
        raise NotImplementedError

    def reduce(self, entries: Float[Tensor, "..."]) -> Float[Tensor, " units"]:
        """Return the sum of the entries of every unit."""
        raise NotImplementedError

    def sizes(self, shape: Shape) -> Float[Tensor, " units"]:
        """Return the number of entries of every unit."""
        return self.reduce(torch.ones(shape))

    def project(self, scores: Float[Tensor, "..."], budget: float) -> Bool[Tensor, "..."]:
        """Return the mask of the units with the largest sums of ``scores``, the share ``budget`` of them, rounded."""
        sums = self.reduce(scores)
        return self.expand(largest(sums, round(budget * len(sums))), tuple(scores.shape))

    def kept(self, mask: Bool[Tensor, "..."]) -> Bool[Tensor, " units"]:
        """Return which units ``mask`` touches."""
        return self.reduce(mask.float()) > 0

    def fits(self, mask: Bool[Tensor, "..."]) -> bool:
        """Return whether every unit of ``mask`` is whole or empty."""
        return torch.equal(self.expand(self.kept(mask), tuple(mask.shape)), mask)

    def density(self, mask: Bool[Tensor, "..."]) -> float:
        """Return the share of entries kept, in [0, 1]."""
        return int(mask.sum()) / max(1, mask.numel())

    def cost(self, mask: Bool[Tensor, "..."]) -> Cost:
        """Return what storing the masked tensor takes."""
        return Cost(values=int(mask.sum()), indices=int(self.kept(mask).sum()))


class Unstructured(_Units):
    """Every entry on its own."""

    kind: Literal["unstructured"] = "unstructured"

    def units(self, shape: Shape) -> int:
        """Return the number of entries."""
        return math.prod(shape)

    def expand(self, units: Shaped[Tensor, " units"], shape: Shape) -> Shaped[Tensor, "..."]:
        """Return the units in ``shape``."""
        return units.reshape(shape)

    def reduce(self, entries: Float[Tensor, "..."]) -> Float[Tensor, " units"]:
        """Return the entries in a row."""
        return entries.reshape(-1)


class WholeTensor(_Units):
    """All entries or none."""

    kind: Literal["tensor"] = "tensor"

    def units(self, shape: Shape) -> int:
        """Return 1."""
        return 1

    def expand(self, units: Shaped[Tensor, " units"], shape: Shape) -> Shaped[Tensor, "..."]:
        """Return the one value everywhere."""
        return units.reshape([1] * len(shape)).expand(shape)

    def reduce(self, entries: Float[Tensor, "..."]) -> Float[Tensor, " units"]:
        """Return the sum of all entries."""
        return entries.sum().reshape(1)


class Block(_Units):
    """Rectangles of ``height`` outputs by ``width`` inputs, smaller at the edges; a vector has blocks of ``height``."""

    kind: Literal["block"] = "block"
    height: Extent = 64
    width: Extent = 64

    def units(self, shape: Shape) -> int:
        """Return the number of blocks."""
        rows, columns = self._grid(shape)
        return rows * columns

    def expand(self, units: Shaped[Tensor, " units"], shape: Shape) -> Shaped[Tensor, "..."]:
        """Return the value of its block for every entry."""
        outputs, inputs = _matrix(shape)
        tiles = units.reshape(self._grid(shape)).repeat_interleave(self.height, dim=0)
        return tiles.repeat_interleave(self.width, dim=1)[:outputs, :inputs].reshape(shape)

    def reduce(self, entries: Float[Tensor, "..."]) -> Float[Tensor, " units"]:
        """Return the sum of every block, row of blocks by row."""
        shape = tuple(entries.shape)
        (rows, columns), (outputs, inputs) = self._grid(shape), _matrix(shape)
        edges = (0, columns * self.width - inputs, 0, rows * self.height - outputs)
        padded = torch.nn.functional.pad(entries.reshape(outputs, inputs), edges)
        return padded.reshape(rows, self.height, columns, self.width).sum(dim=(1, 3)).reshape(-1)

    def _grid(self, shape: Shape) -> tuple[int, int]:
        outputs, inputs = _matrix(shape)
        return -(-outputs // self.height), -(-inputs // self.width)


class _Channels(_Units):
    """Slices along one axis: ``_run`` neighbours make a unit, and the axis holds the units ``_times`` over."""

    @property
    def _layout(self) -> tuple[int, int, int]:
        """Return (axis, run, times)."""
        raise NotImplementedError

    def units(self, shape: Shape) -> int:
        """Return the number of channels, hidden units or heads."""
        axis, run, times = self._layout
        if axis >= len(shape) or shape[axis] % (run * times):
            raise InputError(f"a tensor of shape {list(shape)} has no units of the pattern '{self!r}'.")
        return shape[axis] // (run * times)

    def expand(self, units: Shaped[Tensor, " units"], shape: Shape) -> Shaped[Tensor, "..."]:
        """Return the value of its slice for every entry."""
        axis, run, times = self._layout
        along = units.repeat_interleave(run).repeat(times)
        return along.reshape([-1 if i == axis else 1 for i in range(len(shape))]).expand(shape)

    def reduce(self, entries: Float[Tensor, "..."]) -> Float[Tensor, " units"]:
        """Return the sum over the slices of every unit."""
        axis, run, times = self._layout
        count = self.units(tuple(entries.shape))
        return entries.movedim(axis, 0).reshape(times, count, run, -1).sum(dim=(0, 2, 3))


class OutChannels(_Channels):
    """Output channels: rows of a linear layer's weight, filters of a convolution, entries of their biases."""

    kind: Literal["out-channels"] = "out-channels"

    @property
    def _layout(self) -> tuple[int, int, int]:
        return 0, 1, 1


class InChannels(_Channels):
    """Input channels: columns of a linear layer's weight."""

    kind: Literal["in-channels"] = "in-channels"

    @property
    def _layout(self) -> tuple[int, int, int]:
        return 1, 1, 1


class HiddenUnits(_Channels):
    """Hidden units of the MLP ``of``: rows and bias of its first layer (side "out"), columns of its second ("in")."""

    kind: Literal["hidden-units"] = "hidden-units"
    of: str
    side: Side

    @property
    def _layout(self) -> tuple[int, int, int]:
        return int(self.side == "in"), 1, 1


class Heads(_Channels):
    """Heads of ``width`` channels of the attention ``of``: rows of queries, keys and values ("out"), columns of the
    projection ("in").
    """

    kind: Literal["heads"] = "heads"
    of: str
    side: Side
    width: Extent

    @property
    def _layout(self) -> tuple[int, int, int]:
        return int(self.side == "in"), self.width, 3 if self.side == "out" else 1


Pattern = Annotated[
    Unstructured | WholeTensor | Block | OutChannels | InChannels | HiddenUnits | Heads, Field(discriminator="kind")
]


class Rows:
    """Rows of an activation [..., rows, channels]: the tokens at which a sub-task differs from the base task."""

    @staticmethod
    def project(change: Float[Tensor, "*batch rows c"], budget: float) -> Bool[Tensor, "*batch rows 1"]:
        """Return the mask of the rows with the largest Euclidean norm of ``change``, ceil(budget * rows) of them."""
        norms = row_norms(change).unsqueeze(-1)
        count = min(norms.shape[-2], math.ceil(budget * norms.shape[-2]))
        chosen = norms.topk(count, dim=-2).indices.transpose(-2, -1)
        numbers = torch.arange(norms.shape[-2], device=norms.device).unsqueeze(-1)
        return (numbers == chosen).any(dim=-1, keepdim=True)


def row_norms(change: Float[Tensor, "*batch rows c"]) -> Float[Tensor, "*batch rows"]:
    """Return the Euclidean norm of every row, at least in float32: 256 squared is infinity in float16."""
    norms: Tensor = torch.linalg.vector_norm(change, dim=-1, dtype=torch.promote_types(change.dtype, torch.float32))
    return norms


def largest(scores: Float[Tensor, " units"], count: int) -> Bool[Tensor, " units"]:
    """Return the mask of the ``count`` largest scores; of equal ones the first."""
    order = scores.argsort(descending=True, stable=True)
    mask = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    mask[order[:count]] = True
    return mask


def _matrix(shape: Shape) -> tuple[int, int]:
    return (shape[0] if shape else 1), math.prod(shape[1:])
