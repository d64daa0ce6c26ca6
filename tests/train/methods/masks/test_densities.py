"""ERK densities against water-filling by bisection; counts sum exactly; random masks keep exactly so many."""

from __future__ import annotations

import math

import pytest
import torch

from slimtask.train.methods.masks.densities import erk_densities, layer_counts, random_masks

SHAPES = {
    "stem": torch.Size([8, 3, 7, 7]),
    "small": torch.Size([8, 8, 3, 3]),
    "point": torch.Size([16, 8, 1, 1]),
    "large": torch.Size([64, 64, 3, 3]),
    "linear": torch.Size([5, 64]),
}
SIZES = {name: math.prod(shape) for name, shape in SHAPES.items()}


def water_filling(density: float, power: float) -> dict[str, float]:
    """The truth: the epsilon at which min(1, epsilon * raw) holds density * entries, found by bisection."""
    raw = {name: (sum(shape) / SIZES[name]) ** power for name, shape in SHAPES.items()}
    low, high = 0.0, 1e9
    for _ in range(300):
        middle = (low + high) / 2
        held = sum(min(1.0, middle * raw[name]) * size for name, size in SIZES.items())
        low, high = (middle, high) if held < density * sum(SIZES.values()) else (low, middle)
    return {name: min(1.0, low * raw[name]) for name in raw}


@pytest.mark.parametrize("density", [0.02, 0.1, 0.3, 0.5, 0.95])
@pytest.mark.parametrize("power", [0.9, 1.0])
def test_erk_densities_are_those_of_water_filling(density: float, power: float) -> None:
    found = erk_densities(SHAPES, density, power)
    assert found == pytest.approx(water_filling(density, power), rel=1e-9)
    held = sum(found[name] * size for name, size in SIZES.items())
    assert held == pytest.approx(density * sum(SIZES.values()), rel=1e-12)


def test_two_equal_layers_have_the_closed_form() -> None:
    shape = torch.Size([4, 4, 3, 3])
    assert erk_densities({"a": shape, "b": shape}, 0.25) == pytest.approx({"a": 0.25, "b": 0.25})


@pytest.mark.parametrize("layers", ["erk", "uniform"])
@pytest.mark.parametrize("density", [0.013, 0.1, 0.5, 0.999])
def test_counts_sum_exactly_and_stay_within_one_of_the_density(layers: str, density: float) -> None:
    counts = layer_counts(SHAPES, density, layers)  # type: ignore[arg-type]
    assert sum(counts.values()) == round(density * sum(SIZES.values()))
    exact = erk_densities(SHAPES, density) if layers == "erk" else dict.fromkeys(SHAPES, density)
    for name, count in counts.items():
        assert abs(count - exact[name] * SIZES[name]) < 1
        assert 0 <= count <= SIZES[name]


def test_random_masks_are_drawn_by_their_seed() -> None:
    counts = layer_counts(SHAPES, 0.2, "erk")
    masks, again, others = (random_masks(counts, SHAPES, seed) for seed in (1, 1, 2))
    assert {name: int(mask.sum()) for name, mask in masks.items()} == counts
    assert {name: mask.shape for name, mask in masks.items()} == SHAPES
    assert all(torch.equal(masks[name], again[name]) for name in masks)
    assert not torch.equal(masks["large"], others["large"])
