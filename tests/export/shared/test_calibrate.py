"""Row budgets: within the error budget, none that could be lower, all rows where no error is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from slimtask.compress.structures.delta import Execution
from slimtask.errors import InputError
from slimtask.export.shared import SharedViT, calibrate_rows, calibrate_thresholds

MakeNet = Callable[..., Any]


def error_of(net: Any, rows: dict[str, int], merged: torch.Tensor, x: torch.Tensor) -> float:
    out = SharedViT.of(net, rows={"depth": rows})(x)["depth"]
    return float((out - merged).norm() / merged.norm())


@torch.no_grad()
def test_the_budgets_are_small_and_keep_to_the_error(make_net: MakeNet, x: torch.Tensor) -> None:
    net = make_net({"depth": ("heads", Execution()), "normals": ("heads", Execution(feed="base"))})
    others = torch.randn(2, 3, 32, 40)
    made = calibrate_rows(net, "depth", x, 0.01, held_out=others)
    assert list(made.rows) == [
        "encoder_layer_1.mlp",
        *(f"encoder_layer_{i}.{k}" for i in (2, 3) for k in ("attention", "mlp")),
    ]
    merged = net(x)["depth"]
    assert error_of(net, made.rows, merged, x) == pytest.approx(made.error, rel=1e-3)
    assert 1e-4 < made.error <= 0.01
    assert error_of(net, made.rows, net(others)["depth"], others) == pytest.approx(made.held_out_error, rel=1e-3)
    assert min(made.rows.values()) < made.tokens == 21
    last = "encoder_layer_3.attention"
    assert error_of(net, {**made.rows, last: made.rows[last] - 1}, merged, x) > 0.01


@torch.no_grad()
def test_no_error_needs_every_row(make_net: MakeNet, x: torch.Tensor) -> None:
    net = make_net({"depth": ("heads", Execution(rows=0.1))})
    made = calibrate_rows(net, "depth", x, 1e-6)
    assert set(made.rows.values()) == {21}
    assert made.held_out_error is None
    loose = calibrate_rows(net, "depth", x, 100.0)
    assert set(loose.rows.values()) == {1}


def test_what_does_not_fit_is_refused(make_net: MakeNet, x: torch.Tensor) -> None:
    net = make_net({"depth": ("heads", Execution()), "normals": ("heads", Execution(feed="base"))})
    with pytest.raises(InputError, match="'edges' is none"):
        calibrate_rows(net, "edges", x, 0.1)
    with pytest.raises(InputError, match="'normals' is none"):
        calibrate_rows(net, "normals", x, 0.1)
    with pytest.raises(InputError, match="error budget -1"):
        calibrate_rows(net, "depth", x, -1.0)


def test_thresholds_would_be_part_of_the_error(make_net: MakeNet, x: torch.Tensor) -> None:
    """All rows with thresholds are not the merged network, which errors are relative to."""
    net = make_net({"depth": ("heads", Execution(thresholds={"encoder_layer_3.fc1": 0.5}))})
    with pytest.raises(InputError, match="'depth' has thresholds; calibrate rows without them"):
        calibrate_rows(net, "depth", x, 0.01)


@pytest.mark.parametrize("calibrate", [calibrate_rows, calibrate_thresholds])
def test_an_output_that_is_not_finite_is_refused(calibrate: Any, make_net: MakeNet, x: torch.Tensor) -> None:
    net = make_net({"depth": ("heads", Execution())})
    x[1, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="output of 'depth' on these images is not finite"):
        calibrate(net, "depth", x, 0.01)
