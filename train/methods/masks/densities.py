"""How a density is spread over layers: evenly, or Erdos-Renyi-Kernel (Evci et al., RigL, ICML 2020, section 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

POWER = 0.9
"""DiSparse's exponent of ERK, RigL's own being 1."""
Shapes = Mapping[str, torch.Size]


def erk_densities(shapes: Shapes, density: float, power: float = POWER) -> dict[str, float]:
    """Return by name the density in [0, 1] of each layer: epsilon * (sum(shape) / prod(shape))^power, at most 1.

    epsilon is such that the mean over all entries is ``density``: where a layer would exceed 1 it is dense, and the
    others share what is left.
    """
    raw = {name: (sum(shape) / math.prod(shape)) ** power for name, shape in shapes.items()}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    wanted = density * sum(sizes.values())
    dense: set[str] = set()
    for name in sorted(raw, key=lambda one: raw[one], reverse=True):
        others = [one for one in raw if one not in dense]
        epsilon = (wanted - sum(sizes[one] for one in dense)) / sum(raw[one] * sizes[one] for one in others)
        if epsilon * raw[name] <= 1:
            return {one: 1.0 if one in dense else epsilon * raw[one] for one in raw}
        dense.add(name)
    return dict.fromkeys(raw, 1.0)


def layer_counts(shapes: Shapes, density: float, layers: Literal["erk", "uniform"]) -> dict[str, int]:
    """Return by name how many entries each layer keeps; together exactly round(density * entries).

    Each layer keeps its density of entries rounded down, and those that lost most by the rounding one more.
    """
    densities = erk_densities(shapes, density) if layers == "erk" else dict.fromkeys(shapes, density)
    exact = {name: densities[name] * math.prod(shape) for name, shape in shapes.items()}
    counts = {name: min(math.prod(shapes[name]), math.floor(value + 1e-9)) for name, value in exact.items()}
    missing = round(density * sum(math.prod(shape) for shape in shapes.values())) - sum(counts.values())
    for name in sorted(exact, key=lambda one: exact[one] - counts[one], reverse=True)[: max(0, missing)]:
        counts[name] += 1
    return counts


def random_masks(counts: Mapping[str, int], shapes: Shapes, seed: int) -> dict[str, Bool[Tensor, "..."]]:
    """Return by name a mask that keeps ``counts`` entries, drawn by ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, shape in shapes.items():
        flat = torch.zeros(math.prod(shape), dtype=torch.bool)
        flat[torch.randperm(len(flat), generator=generator)[: counts[name]]] = True
        masks[name] = flat.view(shape)
    return masks
