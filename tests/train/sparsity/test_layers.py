"""Zeros by layer, counted against zeros that were put there, along either axis."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from slimtask.train.sparsity.layers import layer_zeros, plot_layers, total_zeros, write_layers


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 4, 2),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.Linear(5, 7),
    )


def test_planted_zeros_are_found_along_the_axis_they_are_on() -> None:
    model = net()
    with torch.no_grad():
        model[0].weight[:, 1] = 0.0  # an input channel
        model[0].weight[[2, 5]] = 0.0  # two filters
        model[2].weight[3] = 0.0  # transposed: axis 0 reads
        model[2].weight[:, 2] = 0.0
        model[4].weight[0, 0] = 0.0
    first, transposed, grouped, linear = layer_zeros(model)
    assert (first.name, first.input_channels, first.filters) == ("0", (1, 3), (2, 8))
    assert first.weights == (72 + 2 * 18, 8 * 3 * 9)
    assert (transposed.input_channels, transposed.filters) == ((1, 8), (1, 4))
    assert (grouped.input_channels, grouped.filters) == ((0, 2), (0, 6))
    assert (linear.input_channels, linear.weights) == ((0, 5), (1, 35))
    total = total_zeros([first, transposed, grouped, linear])
    assert (total.input_channels, total.filters) == ((2, 18), (3, 25))
    assert total.fractions()["zero_filters"] == pytest.approx(3 / 25)
    assert [layer.name for layer in layer_zeros(model, "2")] == ["2"]


def test_weights_behind_a_parametrisation_count_as_they_are_used() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    mask = torch.ones(4, 4)
    mask[:, 2] = 0.0

    class Masked(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight * mask

    nn.utils.parametrize.register_parametrization(model[0], "weight", Masked())
    assert layer_zeros(model)[0].input_channels == (1, 4)
    assert layer_zeros(model)[0].weights == (4, 16)


def test_the_files_hold_every_layer(tmp_path: Path) -> None:
    layers = layer_zeros(net())
    write_layers(layers, tmp_path)
    content = json.loads((tmp_path / "layers.json").read_text())
    assert content["total"]["zero_weights"] == 0.0
    assert [row["name"] for row in content["layers"]] == ["0", "2", "3", "4"]
    picture = (tmp_path / "layers.svg").read_text()
    assert all(f">{row.name}<" in picture for row in layers)
    plot_layers(layers, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == picture  # the same zeros, the same file
