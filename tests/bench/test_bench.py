from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from slimtask.bench.bench import (
    Bench,
    Candidate,
    bench_artifacts,
    count_text,
    fixed_latency_share,
    table,
    verdict,
    verdicts,
)
from slimtask.bench.timing.measure import Ratio
from slimtask.errors import InputError


def ratio(value: float, spread: float = 0.02) -> Ratio:
    return Ratio(value=value, low=value * (1 - spread), high=value * (1 + spread))


@pytest.fixture
def bench(save_convolution):
    return bench_artifacts(
        [
            Candidate(level="dense", artifact=save_convolution("a.onnx", 64), params=1728, flops=1_327_104),
            Candidate(level="70 %", artifact=save_convolution("b.onnx", 2), params=54, flops=41_472, channels=(2,)),
            Candidate(level="dense", artifact=save_convolution("c.onnx", 64), path="depth"),
        ],
        threads=1,
        rounds=12,
    )


def test_the_first_of_each_path_is_the_baseline(bench):
    dense, slim, depth = bench.rows
    assert dense.speedup is None
    assert depth.speedup is None
    assert slim.flop_ratio == pytest.approx(32)
    assert slim.speedup == dense.measurement.ratio(slim.measurement)
    assert bench.row("70 %") is slim
    with pytest.raises(InputError, match="level '30 %'"):
        bench.row("30 %")


def test_table_says_flop_ratio_and_speedup_apart(bench):
    console = Console(file=io.StringIO(), width=220)
    console.print(table(bench))
    text = console.file.getvalue()
    for word in ("FLOP ratio", "speed-up", "32.00x", "1.73 k", "1.33 M", "onnxruntime-cpu", "1x3x24x32", "depth"):
        assert word in text


def test_at_80_columns_every_row_is_told_from_the_others_and_no_number_is_cut(bench):
    rows = []
    for row in bench.rows:
        folder = f"/home/somebody/a/long/way/to/{row.level}/bundle"
        rows.append(row.model_copy(update={"level": folder, "params": None, "flops": None, "flop_ratio": None}))
    bundles = Bench(backend=bench.backend, rows=tuple(rows))
    console = Console(file=io.StringIO(), width=80)
    console.print(table(bundles))
    text = console.file.getvalue()
    assert "…" not in text
    assert "FLOP" not in text
    assert "/home/somebody/a/long/way/to" in text
    for row in bundles.rows:
        timed = row.measurement
        line = next(
            line for line in text.splitlines() if f".../{row.level.split('/')[-2]}/bundle" in line and row.path in line
        )
        assert f"{timed.median_ms:.2f}" in line
        assert f"{timed.p10_ms:.2f}-{timed.p90_ms:.2f}" in line
    assert verdicts(bundles) == [f"{row.level} {row.path}: {row.verdict}" for row in bundles.rows if row.speedup]
    assert verdicts(bundles)


def test_json_keeps_samples(bench):
    value = json.loads(json.dumps(bench.to_json(), allow_nan=False))
    assert len(value["rows"][0]["measurement"]["samples_ms"]) == 12


def test_repeated_candidates_are_refused():
    with pytest.raises(InputError, match="same level and path"):
        bench_artifacts([Candidate(level="dense", artifact="a.onnx")] * 2)


def test_verdict_follows_the_interval():
    assert verdict(ratio(2.0), 2.1) == "2.00x [1.96, 2.04] faster"
    assert verdict(ratio(1.0), 1.0).startswith("not faster: 1.00x")
    assert "slower" in verdict(ratio(0.9), 1.0)
    assert "unsteady" in verdict(ratio(2.0), 2.1, steady=False)


def test_verdict_tells_a_flop_ratio_that_was_not_reached_and_only_measured_reasons():
    said = verdict(ratio(1.3), 4.0, channels=(8, 16, 5, 7), fixed_share=0.6)
    assert "far below its FLOP ratio of 4.00x" in said
    assert "60 % of the dense latency at zero FLOPs" in said
    assert "2 of 4 layers" in said
    assert verdict(ratio(1.3), 4.0).endswith("FLOP ratio of 4.00x")


def test_fixed_share_recovers_the_intercept():
    flops = [10_000_000, 6_000_000, 1_000_000]
    assert fixed_latency_share([2.0 + f / 1e6 for f in flops], flops) == pytest.approx(2 / 12)
    assert fixed_latency_share([12.0, 8.0], flops[:2]) is None


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (950, "950"), (23_512_130, "23.5 M"), (4.1e9, "4.1 G")])
def test_count_text(value, text):
    assert count_text(value) == text
