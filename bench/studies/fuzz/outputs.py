"""Heads of fuzzed networks and the forms that their outputs come in: containers of every kind, values of every kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from slimtask.bench.studies.fuzz.blocks import Random


class FlatHead(nn.Sequential):
    """A linear layer over four places of the maps."""

    def __init__(self, r: Random, shape: torch.Size) -> None:
        half = (shape[2] // 2, shape[3] // 2)  # fixed, for the exporter knows no adaptive maximum
        super().__init__(nn.MaxPool2d(half), _FirstFour(), nn.Flatten(), nn.Linear(shape[1] * 4, 5))


class _FirstFour(nn.Module):
    """The first two by two places, whatever the size of the image."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :2, :2]


class PoolHead(nn.Sequential):
    """A linear layer over the means of the maps."""

    def __init__(self, r: Random, shape: torch.Size) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(shape[1], 5))


class MapsHead(nn.Sequential):
    """Two convolutions."""

    def __init__(self, r: Random, shape: torch.Size) -> None:
        super().__init__(nn.Conv2d(shape[1], 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))


class RoiHead(nn.Module):
    """A linear layer over two boxes of each image, cut out by RoIAlign."""

    def __init__(self, r: Random, shape: torch.Size) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(shape[1], 16, 1) if r.random() < 0.5 else nn.Identity()
        self.last = nn.Linear(9 * (16 if isinstance(self.reduce, nn.Conv2d) else shape[1]), 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return the boxes' outputs, [2 n, 5]."""
        from torchvision.ops import roi_align

        boxes = [x.new_tensor([[1.0, 1.0, 5.0, 4.0], [0.0, 2.0, 3.0, 5.5]]) for _ in range(len(x))]
        made: Tensor = self.last(roi_align(self.reduce(x), boxes, 3).flatten(1))
        return made


HEADS: tuple[type[nn.Module], ...] = (FlatHead, PoolHead, MapsHead)
ODD_HEADS: tuple[type[nn.Module], ...] = (RoiHead,)


class Nested:
    """A plain object that holds tensors (DETR's NestedTensor, detectron2's Instances)."""

    def __init__(self, tensors: Any) -> None:
        self.tensors = tensors


@dataclasses.dataclass
class Answer:
    """A dataclass as transformers return it."""

    logits: Tensor
    others: list[Tensor]
    loss: None = None


class Pair(NamedTuple):
    """A named tuple of two outputs."""

    first: Tensor
    second: Tensor


def _rows(y: Tensor) -> Tensor:
    """Return an output's first image as rows of at least five numbers."""
    rows = y[0].flatten(1).T if y.ndim == 4 else y[:, :5]
    return rows if rows.shape[1] >= 5 else torch.cat([rows, rows.flip(0), rows * 0.5], 1)[:, :5]


def _above(y: Tensor) -> Tensor:
    rows = _rows(y)
    return rows[rows[:, 4] > 0, :4]


def _by_class(y: Tensor) -> dict[str, Tensor]:
    rows = _rows(y)
    best = rows.argmax(1)
    return {f"class{int(k)}": rows[best == k] for k in torch.unique(best)}


def _masked(y: Tensor) -> Tensor:
    return y.masked_fill(torch.arange(y.shape[-1], device=y.device) % 3 == 1, -float("inf"))


def _empties(y: Tensor) -> Tensor:
    return torch.cat([y.flatten()[y.flatten() > 1e9] for _ in range(2)])


PLAIN_FORMS: dict[str, Callable[[list[Tensor], list[Tensor]], Any]] = {
    "tensor": lambda found, maps: found[0],
    "dict": lambda found, maps: _named(found),
    "tuple": lambda found, maps: tuple(found),
    "nested": lambda found, maps: {"all": tuple(found[1:]), "first": found[0]},
}
ODD_FORMS: dict[str, Callable[[list[Tensor], list[Tensor]], Any]] = {
    "object": lambda found, maps: {"logits": found[0], "nested": Nested(found[-1])},
    "features": lambda found, maps: {"logits": found[0], "features": Nested([maps[len(maps) // 2]])},
    "namespace": lambda found, maps: SimpleNamespace(first=found[0], all=_named(found)),
    "dataclass": lambda found, maps: Answer(found[0], found[1:]),
    "named tuple": lambda found, maps: Pair(found[0], found[-1] * 2),
    "set": lambda found, maps: {found[0], torch.cat([found[0], found[0]])},
    "booleans": lambda found, maps: {"y": found[0], "mask": found[0] > 0},
    "integers": lambda found, maps: (found[0], found[0].argmax(1), (10 * found[0]).round().long()),
    "infinities": lambda found, maps: _masked(found[0]),
    "empty": lambda found, maps: {"y": found[0], "boxes": found[0].new_zeros(0, 4)},
    "empty lists": lambda found, maps: (found[0], _empties(found[0])),
    "boxes": lambda found, maps: {"boxes": _above(found[0]), "raw": found[0]},
    "by class": lambda found, maps: {"raw": found[0], **_by_class(found[0])},
    "numbers": lambda found, maps: {"y": found[0], "size": tuple(found[0].shape), "name": "y", "none": None},
    "aux": lambda found, maps: found[0],
}
FORMS = {**PLAIN_FORMS, **ODD_FORMS}


def _named(found: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f"task{index}": output for index, output in enumerate(found)}
