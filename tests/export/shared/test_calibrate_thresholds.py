"""Thresholds: within the error budget; all drops where any error is allowed, nothing where none is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from slimtask.compress.structures.delta import Execution
from slimtask.errors import InputError
from slimtask.export.shared import SharedViT, calibrate_thresholds
from slimtask.export.shared.calibrate import LINEAR

MakeNet = Callable[..., Any]


def error_of(net: Any, values: dict[str, float], merged: torch.Tensor, x: torch.Tensor) -> float:
    out = SharedViT.of(net, thresholds={"depth": values})(x)["depth"]
    return float((out - merged).norm() / merged.norm())


@torch.no_grad()
def test_what_is_dropped_is_much_and_keeps_to_the_error(make_net: MakeNet, x: torch.Tensor) -> None:
    net = make_net({"depth": ("heads", Execution()), "normals": ("heads", Execution(feed="base"))})
    others = torch.randn(2, 3, 32, 40)
    made = calibrate_thresholds(net, "depth", x, 0.02, held_out=others)
    assert {site.rpartition(".")[2] for site in made.values} <= set(LINEAR)
    merged = net(x)["depth"]
    assert error_of(net, made.values, merged, x) == pytest.approx(made.error, rel=1e-3)
    assert 1e-3 < made.error <= 0.02
    assert error_of(net, made.values, net(others)["depth"], others) == pytest.approx(made.held_out_error, rel=1e-3)
    assert max(made.dropped.values()) > 0.2
    assert all(
        share == 0 or value > 0 for share, value in zip(made.dropped.values(), made.values.values(), strict=True)
    )
    assert dict(net.trunk.executions) == {"depth": Execution(), "normals": Execution(feed="base")}


@torch.no_grad()
def test_the_dropped_share_is_that_of_the_values(make_net: MakeNet, x: torch.Tensor) -> None:
    """Counted anew, from the activations that the network itself reports."""
    net = make_net({"depth": ("heads", Execution())})
    made = calibrate_thresholds(net, "depth", x, 0.05)
    counted: dict[str, float] = {}

    def watch(site: str, base: torch.Tensor, own: torch.Tensor) -> None:
        if site in made.values:
            difference = (base - own).abs()
            differs = difference > 0
            counted[site] = float((difference < made.values[site])[differs].double().mean())

    net.trunk.watch = watch
    net(x)
    assert counted == pytest.approx(made.dropped)


@torch.no_grad()
def test_no_error_drops_nothing_and_any_error_everything(make_net: MakeNet, x: torch.Tensor) -> None:
    net = make_net({"depth": ("heads", Execution())})
    none = calibrate_thresholds(net, "depth", x, 0.0)
    assert none.error == 0
    assert none.held_out_error is None
    merged = net(x)["depth"]
    assert error_of(net, none.values, merged, x) < 1e-5
    loose = calibrate_thresholds(net, "depth", x, 100.0)
    assert set(loose.dropped.values()) == {1.0}
    assert all(math.isfinite(value) for value in loose.values.values())
    Execution(thresholds=dict(loose.values))  # a delta can hold them


def test_what_does_not_fit_is_refused(make_net: MakeNet, x: torch.Tensor) -> None:
    net = make_net({"depth": ("heads", Execution(rows=0.5)), "normals": ("heads", Execution(feed="base"))})
    for task, sentence in (
        ("edges", "'edges' is none"),
        ("normals", "'normals' is none"),
        ("depth", "50% of the rows"),
    ):
        with pytest.raises(InputError, match=sentence):
            calibrate_thresholds(net, task, x, 0.1)
    with pytest.raises(InputError, match="error budget nan"):
        calibrate_thresholds(net, "depth", x, math.nan)
    for values, sentence in (
        ({"normals": {}}, "'normals' is none"),
        ({"depth": {"encoder_layer_1.fc3": 0.1}}, r"for 'encoder_layer_1.fc3'; did you mean"),
        ({"depth": {"encoder_layer_1.fc1": math.nan}}, "threshold nan"),
    ):
        with pytest.raises(InputError, match=sentence):
            SharedViT.of(net, thresholds=values)
