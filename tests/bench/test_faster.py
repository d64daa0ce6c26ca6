"""Whether the compressed network is faster, by the interval of the ratio."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from slimtask.bench import faster as module
from slimtask.bench.faster import speed_up
from slimtask.bench.layers import meter
from slimtask.bench.timing.measure import Conditions, Measurement
from slimtask.errors import CheckFailed

EXAMPLE = torch.zeros(1, 3, 16, 16)
CONDITIONS = Conditions(
    backend="fake", backend_version="0", device="none", precision="fp32", threads=1, batch=1, shape=(3, 16, 16)
)


def chain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()


def fake_times(monkeypatch: pytest.MonkeyPatch, milliseconds: Callable[[str], tuple[float, ...]]) -> None:
    def timed(graphs: dict[str, Path], threads: int) -> dict[str, Measurement]:
        assert all(path.is_file() for path in graphs.values())
        conditions = CONDITIONS.model_copy(update={"run_id": "one"})
        return {name: Measurement(samples_ms=milliseconds(name), conditions=conditions) for name in graphs}

    monkeypatch.setattr(module, "measure_graphs", timed)


def _touched(network: nn.Module, example: torch.Tensor, path: Path) -> Path:
    """Stand in for the slow exporter."""
    path.touch()
    return path


def test_slower_than_dense_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    dense, smaller = chain(), chain()
    fake_times(monkeypatch, lambda name: (2.0, 2.1, 2.2) if name == "dense" else (1.0, 1.05, 1.1))
    found = speed_up(dense, smaller, EXAMPLE, threads=1)
    assert (found.dense_ms, found.measured_ms, found.ratio.value) == (2.1, 1.05, 2.0)
    monkeypatch.setattr(meter, "export", _touched)
    fake_times(monkeypatch, lambda name: (2.0, 2.1, 2.2) if name == "compressed" else (1.0, 1.05, 1.1))
    with pytest.raises(CheckFailed, match=r"takes 2\.1 ms, the dense one 1\.05"):
        speed_up(dense, smaller, EXAMPLE, threads=1)
    fake_times(monkeypatch, lambda name: (1.0, 3.0, 2.0) if name == "compressed" else (1.9, 1.0, 3.0))
    assert not speed_up(dense, smaller, EXAMPLE, threads=1).ratio.below_one  # noise says neither
