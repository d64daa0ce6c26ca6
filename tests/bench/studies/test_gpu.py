"""What `make gpu` runs, as far as a machine without GPU can check it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from slimtask.bench.studies import gpu
from slimtask.bench.studies.trunks import cut_levels, latency
from slimtask.bench.timing.gpu_clock import GraphClock
from slimtask.bench.timing.isolated import Lost


class HostClock:
    """Three runs of each, by the host's clock."""

    def capture(self, run):
        return run

    def time(self, replays, *, cold):
        samples: dict[str, list[float]] = {}
        with torch.no_grad():
            for name, (run,) in replays.items():
                for _ in range(3):
                    start = time.perf_counter()
                    run()
                    samples.setdefault(name, []).append((time.perf_counter() - start) * 1e3)
        return samples

    def check(self, error=None):
        pass


def test_levels_are_really_smaller_and_certified() -> None:
    levels = cut_levels("resnet18", (0.0, 0.7), (64, 64), width=0.25)
    rows = latency(levels, (64, 64), torch.float32, clock=HostClock(), device="cpu")
    dense, cut = rows
    assert dense["certificate"] is None
    assert cut["certificate"] <= 1e-5
    assert cut["trunk_params"] < 0.2 * dense["trunk_params"]
    assert cut["flops"] < 0.5 * dense["flops"]
    assert dense["speedup"]["value"] == 1.0
    assert cut["latency_ms"]["n"] == 3


class Stub:
    """A runner on which one trunk hangs and the others have one row."""

    def run(self, work, trunk, *arguments, seconds):
        if trunk == "resnet18":
            raise Lost("", f"took longer than {seconds:.0f} s")
        return [{"trunk": trunk}]

    def rest(self):
        pass


def test_each_part_is_kept_as_it_comes_and_none_costs_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(gpu.deltas, "measure", lambda seconds, *, runner: {"seconds": seconds, "failed": []})
    monkeypatch.setattr(gpu, "gpu_tests", lambda seconds: {"exit_status": 0, "closing_line": f"{seconds > 500}"})
    kept: list[str] = []
    result = gpu.measure(Stub(), delta_seconds=7.0, keep=lambda so_far: kept.append(json.dumps(so_far)))
    begun, first, *others, last = [json.loads(each) for each in kept]
    assert (begun["delta"], begun["environment"]["gpu"]) == (None, "NVIDIA H200")
    assert first["delta"] == {"seconds": 7.0, "failed": []}
    assert (first["latency"], first["tests"]) == ([], None)
    assert len(others) == 2
    assert last == result
    assert result["latency"] == [{"trunk": "resnetd50"}]
    assert result["failed"] == [{"name": "latency of resnet18", "error": "took longer than 150 s"}]
    assert result["tests"]["closing_line"] == "True"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "slimtask.bench.studies.gpu", "--json", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no CUDA device is visible" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
def test_graph_timing_sees_work() -> None:
    x = torch.randn(1, 64, 256, 256, device="cuda")
    small, large = nn.Conv2d(64, 8, 3).cuda().eval(), nn.Sequential(*[nn.Conv2d(64, 64, 3) for _ in range(8)]).cuda()
    clock, networks = GraphClock(replays=100, per_sample=5), {"small": small, "large": large.eval()}
    samples = clock.time({name: [clock.capture(partial(each, x))] for name, each in networks.items()}, cold=False)
    assert sorted(samples["small"])[10] < sorted(samples["large"])[10]
