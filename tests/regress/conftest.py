"""Hot paths guarded by pytest-benchmark: none may become slower than the committed baseline says."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slimtask.bench.timing.environment import environment
from slimtask.files import write_json
from slimtask.measured import cpu_name

BASELINE = Path(__file__).parents[2] / "docs" / "results" / "regress.json"
WRITE = "SLIMTASK_REGRESS_WRITE"
SAME, OTHER = 1.3, 1.8
"""How much slower a path may be: in milliseconds on the baseline's machine, else in convolutions timed beside it."""
REFERENCE = "conv2d of [8, 64, 56, 56] with [64, 64, 3, 3], float32, one thread"

_X, _W = torch.randn(8, 64, 56, 56), torch.randn(64, 64, 3, 3)


def _reference_ms() -> float:
    began = time.perf_counter()
    torch.nn.functional.conv2d(_X, _W, padding=1)
    return (time.perf_counter() - began) * 1e3


class Guard:
    """Times calls, and compares them with the baseline, or writes one."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, float]] = {}
        self.known: dict[str, Any] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {"rows": {}}

    def check(self, name: str, benchmark: Any, call: Callable[[], object], rounds: int) -> None:
        """Fail if ``call`` takes longer than the baseline of ``name`` allows; minima, as other work only adds time."""
        beside: list[float] = []
        benchmark.pedantic(
            call, setup=lambda: beside.append(_reference_ms()), rounds=rounds, warmup_rounds=1, iterations=1
        )
        row = {"minimum_ms": benchmark.stats.stats.min * 1e3, "reference_ms": min(beside)}
        row["ratio"] = row["minimum_ms"] / row["reference_ms"]
        benchmark.extra_info.update(row)
        self.rows[name] = row
        if os.environ.get(WRITE):
            return
        if name not in self.known["rows"]:
            pytest.fail(f"'{name}' has no baseline in {BASELINE}; set {WRITE}=1 to write one.")
        before = self.known["rows"][name]
        here = self.known["machine"]["cpu"] == cpu_name()
        measure, allowed = ("minimum_ms", SAME) if here else ("ratio", OTHER)
        slower = row[measure] / before[measure]
        assert slower <= allowed, f"{name}: {measure} {row[measure]:.3g}, {slower:.2f} times the baseline's"

    def save(self) -> None:
        """Write the rows as the new baseline, if that was asked for."""
        if os.environ.get(WRITE) and self.rows:
            machine = environment()
            command = f"{WRITE}=1 make regress"
            said = {"command": command, "reference": REFERENCE, "versions": machine.pop("versions", {})}
            write_json(BASELINE, {**said, "machine": machine, "rows": {**self.known["rows"], **self.rows}})


@pytest.fixture(scope="session")
def guard() -> Any:
    guard = Guard()
    yield guard
    guard.save()
