"""The realised-speed benchmark: rows and verdicts from known latencies, and one small network from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from slimtask.bench import realised
from slimtask.bench.measure import Conditions, Measurement
from slimtask.bench.realised_networks import (
    Cut,
    choices_for_latency,
    cut_as_chosen,
    cut_by_torch_pruning,
    export,
    subject,
)
from slimtask.compress.cost import count_flops, count_parameters

CONDITIONS = Conditions(
    backend="b", backend_version="1", device="d", precision="float32", threads=1, batch=1, shape=(3, 8, 8), run_id="r"
)


def timed(ms: float) -> Measurement:
    return Measurement(samples_ms=(ms,) * 5, conditions=CONDITIONS)


def made(flops: int) -> Cut:
    return Cut(model=nn.Identity(), flops=flops, parameters=7, importance=0.5)


def row(dense_ms: float, their_ms: float, our_ms: float, our_flops: int = 250) -> dict:
    measured = {"dense": timed(dense_ms), "torch_pruning 0.5": timed(their_ms), "ours 0.5": timed(our_ms)}
    cuts = {"torch_pruning": made(250), "ours": made(our_flops)}
    return realised.row("net", 0.5, {"flops": 1000, "parameters": 9}, cuts, measured)


def test_realised_is_the_speed_up_over_the_flop_ratio() -> None:
    one = row(8.0, 4.0, 2.5)
    assert one["ours"]["flop_ratio"] == 4.0
    assert one["ours"]["speedup"] == pytest.approx(3.2)
    assert one["ours"]["realised"] == pytest.approx(0.8)
    assert one["torch_pruning"]["realised"] == pytest.approx(0.5)
    assert one["ahead"]
    assert one["never_slower"]


def test_ahead_needs_both_speed_and_realised_speed() -> None:
    assert not row(8.0, 4.0, 4.1)["ahead"]
    assert not row(8.0, 4.0, 3.9, our_flops=200)["ahead"]  # faster, but by fewer FLOPs than its speed repays
    assert not row(8.0, 4.0, 8.1)["never_slower"]


def test_the_verdicts_hold_only_if_every_row_does() -> None:
    good, bad = row(8.0, 4.0, 2.0), row(8.0, 4.0, 9.0)
    result = realised.report([good, bad], "make realised", {})
    assert (result["ahead_everywhere"], result["never_slower"]) == (False, False)
    result = realised.report([good, good], "make realised", {})
    assert (result["ahead_everywhere"], result["never_slower"]) == (True, True)
    assert json.loads(json.dumps(result, allow_nan=False))["rows"][0]["model"] == "net"
    assert "| net | 50% | ours | 4.00 | 4.00 [4.00, 4.00] | 1.00 |" in realised.markdown(result)


@pytest.fixture
def small() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval(), torch.randn(
        1, 3, 16, 16
    )


@pytest.mark.filterwarnings("ignore")
def test_both_sides_cut_to_the_same_flops_and_run(small: tuple[nn.Module, torch.Tensor], tmp_path: Path) -> None:
    model, example = small
    theirs = cut_by_torch_pruning(model, example, 0.5)
    assert theirs.model(example).shape == (1, 10)
    timer = lambda shape, n, m: 0.01 + shape.flops(-(-n // 16) * 16, -(-m // 16) * 16) / 1e7  # noqa: E731
    what = subject(model, example, threads=1, budget_seconds=1.0, cache=tmp_path / "t.json", timer=timer)
    choices = choices_for_latency(what, theirs.flops, 0.5, 5.0)
    assert len({chosen.kept for chosen in choices}) == len(choices)
    ours = cut_as_chosen(what, choices[0], theirs.flops)
    assert ours.flops <= theirs.flops
    assert ours.flops == count_flops(ours.model, example)
    assert ours.parameters == count_parameters(ours.model)
    assert 0 < ours.importance < 1
    for side, one in (("theirs", theirs), ("ours", ours)):
        path = export(one.model, example, tmp_path / f"{side}.onnx")
        assert realised._measure({"dense": path}, threads=1, rounds=2)["dense"].median_ms > 0
