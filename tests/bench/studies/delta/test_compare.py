from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from slimtask.bench.studies.delta.compare import Form, Place, compare, in_turn, max_rel_error, row
from slimtask.bench.timing.measure import Conditions, Measurement
from slimtask.errors import CheckFailed

PLACE = Place(model="ViT-B", layer="fc1", tokens=1024)
KEYS = (
    "tasks layer tokens pattern density rows backend ms dense_ms batched_ms speedup max_rel_error p10_ms p90_ms "
    "flop_ratio reference"
)


def form(**more: object) -> Form:
    made = Form(
        call=lambda: None,
        pattern="out-channels",
        density=0.05,
        rows=0.0,
        tasks=4,
        flop_ratio=3.3,
        max_rel_error=1e-7,
        reference="float64",
    )
    return dataclasses.replace(made, **more)


def measured(ms: float) -> Measurement:
    conditions = Conditions(
        backend="onnxruntime-cpu",
        backend_version="1",
        device="cpu",
        precision="float32",
        threads=1,
        batch=1,
        shape=(1024,),
        run_id="one",
    )
    return Measurement(samples_ms=(0.9 * ms, ms, 1.1 * ms), conditions=conditions)


def test_a_row_says_how_much_faster_than_both_baselines() -> None:
    baselines = {"dense": measured(40.0), "batched": measured(30.0)}
    made = row(PLACE, form(batched="batched"), measured(10.0), baselines)
    assert set(KEYS.split()) <= set(made)
    assert made["speedup"] == pytest.approx(4.0)
    assert made["speedup_over_batched"] == pytest.approx(3.0)
    assert made["speedup_low"] <= 4.0 <= made["speedup_high"]
    assert (made["dense_ms"], made["batched_ms"]) == (40.0, 30.0)
    alone = row(PLACE, form(), measured(10.0), baselines)
    assert alone["batched_ms"] is None
    assert alone["speedup_over_batched"] is None


def test_an_output_that_is_not_finite_ends_the_run() -> None:
    with pytest.raises(CheckFailed, match="not finite"):
        row(PLACE, form(max_rel_error=float("inf")), measured(10.0), {"dense": measured(40.0)})


def test_all_candidates_are_timed_in_one_run() -> None:
    called: list[str] = []
    forms = [form(call=lambda: called.append("a")), form(call=lambda: called.append("b"))]
    rows = compare(
        PLACE, {"dense": in_turn([lambda: called.append("d")] * 3)}, forms, threads=1, rounds=5, max_seconds=1.0
    )
    assert len(rows) == 2
    assert {made["rounds"] for made in rows} == {5}
    assert set(called) == {"a", "b", "d"}
    assert called.count("d") % 3 == 0


def test_the_error_is_the_largest_difference_over_the_largest_value() -> None:
    truth = [np.array([1.0, -4.0]), np.array([10.0, 0.0])]
    found = [np.array([1.0, -4.2]), np.array([10.0, 0.1])]
    assert max_rel_error(found, truth) == pytest.approx(0.05)
    assert max_rel_error([np.array([np.nan, 0.0]), truth[1]], truth) == float("inf")
