"""The verdicts of the latency-budget study: seeds paired, intervals by Student's t."""

from __future__ import annotations

import pytest

from slimtask.bench.studies.latency_budget.report import OURS, verdicts


def test_seeds_are_paired_and_one_without_its_pair_does_not_count() -> None:
    def row(method: str, seed: int, delta_m: float) -> dict[str, object]:
        return {"method": method, "target_speedup": 2.0, "seed": seed, "delta_m": delta_m}

    rows = [row(OURS, 0, -1.0), row(OURS, 1, -9.0), row("other", 0, -3.0), row("other", 1, -12.0), row("other", 2, 5.0)]
    (found,) = verdicts(rows)
    assert (found["against"], found["gains"], found["mean"]) == ("other", [2.0, 3.0], 2.5)
    assert (found["low"], found["high"]) == pytest.approx((2.5 - 12.706 * 0.5, 2.5 + 12.706 * 0.5), rel=1e-3)
    (alone,) = verdicts([rows[0], rows[2]])
    assert alone["low"] is None
