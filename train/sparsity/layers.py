"""Where the zeros of a network are, layer by layer: whole input channels, whole filters, single weights.

Published counts of group sparsity take one axis or the other without saying which. Here each has its name, for any
network, however its zeros came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from slimtask.files import atomic_file, write_json


@dataclass(frozen=True, kw_only=True)
class LayerZeros:
    """How much of one layer, or of several, is exactly zero: pairs of the zero ones and of all.

    ``input_channels`` are slices along the axis that reads (those of one group, where a convolution has groups),
    ``filters`` slices along the axis that writes. Biases do not count.
    """

    name: str
    input_channels: tuple[int, int]
    filters: tuple[int, int]
    weights: tuple[int, int]

    def fractions(self) -> dict[str, float]:
        """Return the zero fractions ``zero_input_channels``, ``zero_filters`` and ``zero_weights``."""
        pairs = {"input_channels": self.input_channels, "filters": self.filters, "weights": self.weights}
        return {f"zero_{name}": zero / max(1, count) for name, (zero, count) in pairs.items()}


def layer_zeros(model: nn.Module, scope: str = "") -> list[LayerZeros]:
    """Return the counts of every convolution and linear layer of ``model`` whose name lies under ``scope``."""
    return [
        _count(name, module)
        for name, module in model.named_modules()
        if isinstance(module, _ConvNd | nn.Linear) and (not scope or f"{name}.".startswith(f"{scope}."))
    ]


def total_zeros(layers: Sequence[LayerZeros]) -> LayerZeros:
    """Return the counts of all ``layers`` together."""
    return LayerZeros(
        name="all layers",
        input_channels=_add([layer.input_channels for layer in layers]),
        filters=_add([layer.filters for layer in layers]),
        weights=_add([layer.weights for layer in layers]),
    )


def write_layers(layers: Sequence[LayerZeros], out: Path) -> None:
    """Write ``layers.json`` and the plot ``layers.svg`` into the folder ``out``."""
    total = total_zeros(layers)
    content: dict[str, Any] = {"total": {**asdict(total), **total.fractions()}}
    content["layers"] = [{**asdict(layer), **layer.fractions()} for layer in layers]
    write_json(out / "layers.json", content)
    plot_layers(layers, out / "layers.svg")


def plot_layers(layers: Sequence[LayerZeros], path: Path) -> None:
    """Write the zero input channels and filters of every layer as bars, in the network's order; the suffix says how."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    suffix = path.suffix.removeprefix(".")
    with rc_context({"svg.hashsalt": "layers", "svg.fonttype": "none", "text.parse_math": False}):
        figure = Figure(figsize=(max(4.5, 1.5 + 0.19 * len(layers)), 5.4), layout="constrained")
        panels = figure.subplots(2, 1, sharex=True)
        for axes, what in zip(panels, ("input_channels", "filters"), strict=True):
            shares = [100 * layer.fractions()[f"zero_{what}"] for layer in layers]
            axes.bar(range(len(layers)), shares, width=0.75, color="#0172b2")
            axes.set_ylim(0, 100)
            axes.set_ylabel("% zero")
            whole = total_zeros(layers).fractions()[f"zero_{what}"]
            axes.set_title(f"{what.replace('_', ' ')}: {whole:.1%} of all", fontsize=10, loc="left")
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#d0d1d2", linewidth=0.8)
            axes.set_axisbelow(True)
        panels[-1].set_xticks(range(len(layers)), [layer.name for layer in layers], rotation=90, fontsize=7)
        panels[-1].set_xlim(-0.7, len(layers) - 0.3)
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None)


def _count(name: str, module: nn.Module) -> LayerZeros:
    weight = module.weight
    assert isinstance(weight, Tensor)
    alive = weight.detach() != 0
    reads, writes = (0, 1) if isinstance(module, _ConvTransposeNd) else (1, 0)
    return LayerZeros(
        name=name,
        input_channels=_slices(alive, reads),
        filters=_slices(alive, writes),
        weights=(alive.numel() - int(alive.sum()), alive.numel()),
    )


def _slices(alive: Tensor, axis: int) -> tuple[int, int]:
    count = alive.shape[axis]
    return count - int(alive.movedim(axis, 0).flatten(1).any(1).sum()), count


def _add(pairs: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return sum(zero for zero, _ in pairs), sum(count for _, count in pairs)
