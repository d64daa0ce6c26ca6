"""How much the tasks' masks overlap, layer by layer: the watershed between what tasks share and what they do not.

DiSparse (CVPR 2022, section 4.4) shows it for two tasks. For more, the mean over pairs is that figure's meaning; its
code counts the entries kept by exactly two tasks over those kept by one or two, which is right for two tasks alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from slimtask.compress.structures.masks import Masks
from slimtask.errors import InputError
from slimtask.files import atomic_file

WATERSHED = 0.5
Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class LayerOverlap:
    """The IoU of each pair of tasks in one layer, their ``mean``, ``all`` tasks' IoU, and the original's count."""

    pairs: dict[Pair, float]
    mean: float
    all: float
    exactly_two: float

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON."""
        pairs = [{"tasks": list(pair), "iou": value} for pair, value in self.pairs.items()]
        return {"mean": self.mean, "all": self.all, "exactly_two": self.exactly_two, "pairs": pairs}


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """The overlap of the tasks' masks: in each layer that all of them mask, in module order, and in ``total``."""

    tasks: tuple[str, ...]
    layers: dict[str, LayerOverlap]
    total: LayerOverlap

    @property
    def watershed(self) -> str | None:
        """Return the first layer, shortcuts aside, from which on the mean IoU stays below one half, if there is one."""
        found = None
        for name, layer in self.layers.items():
            if is_shortcut(name):
                continue
            if layer.mean >= WATERSHED:
                found = None
            elif found is None:
                found = name
        return found

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        layers = [{"layer": name, **layer.to_json()} for name, layer in self.layers.items()]
        return {
            "schema": 1,
            "tasks": list(self.tasks),
            "total": self.total.to_json(),
            "watershed": self.watershed,
            "layers": layers,
        }


def overlap(masks: Masks) -> Overlap:
    """Return the overlap of the masks of at least two tasks; InputError if they have no layer in common."""
    own = masks.per_task
    if len(own) < 2:
        raise InputError(f"an overlap compares at least two tasks with masks of their own; there are {len(own)}.")
    first, *others = own.values()
    names = [name for name in first if all(name in other for other in others)]
    if not names:
        raise InputError("the tasks have no masked parameter in common, so their masks cannot be compared.")
    tasks = tuple(own)
    pieces = {name: patterns([own[task][name] for task in tasks]) for name in names}
    layers = {name: _layer(tasks, counts) for name, counts in pieces.items()}
    return Overlap(tasks=tasks, layers=layers, total=_layer(tasks, torch.stack(list(pieces.values())).sum(dim=0)))


def patterns(masks: list[Bool[Tensor, "..."]]) -> Int64[Tensor, " patterns"]:
    """Return how many entries are kept by exactly which tasks: index 5 counts those of the first and third alone."""
    codes = torch.zeros(masks[0].shape, dtype=torch.int64)
    for place, mask in enumerate(masks):
        codes += mask.cpu().to(torch.int64) << place
    return torch.bincount(codes.flatten(), minlength=2 ** len(masks))


def is_shortcut(name: str) -> bool:
    """Return whether a parameter is of a projection shortcut, which the original lists apart, after all blocks."""
    return "shortcut" in name


def save_plot(found: Overlap, path: Path | str) -> None:
    """Write the overlap against depth to ``path`` atomically; the suffix, .png or .svg, says what it becomes."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    suffix = Path(path).suffix.removeprefix(".")
    if suffix not in ("png", "svg"):
        raise InputError(f"a plot is written as .png or .svg, not '{path}'.")
    with rc_context({"svg.hashsalt": "overlap", "svg.fonttype": "none", "text.parse_math": False}):
        figure = Figure(figsize=(7.5, 3.6), layout="constrained")
        _draw(figure.add_subplot(), found)
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None)


def _layer(tasks: tuple[str, ...], counts: Int64[Tensor, " patterns"]) -> LayerOverlap:
    def kept(wanted: int, *, every: bool) -> int:
        """Return how many entries all (``every``) or any of the tasks in the bits of ``wanted`` keep."""
        return sum(
            int(count)
            for pattern, count in enumerate(counts)
            if (pattern & wanted == wanted if every else pattern & wanted)
        )

    def iou(wanted: int) -> float:
        return _ratio(kept(wanted, every=True), kept(wanted, every=False))

    pairs = {(tasks[i], tasks[j]): iou(1 << i | 1 << j) for i, j in combinations(range(len(tasks)), 2)}
    by_number = [0] * (len(tasks) + 1)
    for pattern, count in enumerate(counts):
        by_number[pattern.bit_count()] += int(count)
    return LayerOverlap(
        pairs=pairs,
        mean=sum(pairs.values()) / len(pairs),
        all=iou(2 ** len(tasks) - 1),
        exactly_two=_ratio(by_number[2], by_number[1] + by_number[2]),
    )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _draw(axes: Any, found: Overlap) -> None:
    straight = [name for name in found.layers if not is_shortcut(name)]
    places = {name: place for place, name in enumerate(straight)}
    for pair in found.total.pairs if len(found.tasks) > 2 else ():
        values = [found.layers[name].pairs[pair] for name in straight]
        axes.plot(range(len(straight)), values, linewidth=0.8, alpha=0.6, label=" - ".join(pair))
    means = [found.layers[name].mean for name in straight]
    axes.plot(range(len(straight)), means, color="black", marker="o", markersize=3, label="mean over pairs")
    shortcuts = {name: place for name, place in _shortcut_places(found.layers).items() if is_shortcut(name)}
    if shortcuts:
        heights = [found.layers[name].mean for name in shortcuts]
        axes.scatter(list(shortcuts.values()), heights, marker="s", facecolors="none", edgecolors="black", s=18,
                     label="shortcuts")  # fmt: skip
    if found.watershed is not None:
        axes.axvline(places[found.watershed] - 0.5, color="grey", linestyle="--", linewidth=0.8, label="watershed")
    axes.set_xticks(range(len(straight)), [_short(name) for name in straight], rotation=90, fontsize=6)
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("IoU of the tasks' masks")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7)


def _shortcut_places(layers: Mapping[str, LayerOverlap]) -> dict[str, int]:
    """Return where on the axis each layer stands; a shortcut stands where the layer before it does."""
    places, place = {}, -1
    for name in layers:
        place += not is_shortcut(name)
        places[name] = max(place, 0)
    return places


def _short(name: str) -> str:
    return name.removeprefix("trunk.").removesuffix(".weight").replace("residual.", "")
