"""Bundles in one benchmark: every path of each, none twice, all of one input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimtask.bench.bundles import bench_bundles
from slimtask.errors import CheckFailed, InputError
from slimtask.export.exporter import export_bundle
from slimtask.tasks import Preprocessing, TaskSpec


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tasks = (TaskSpec(name="depth", kind="depth", channels=1),)
        self.layer = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, x: Tensor, tasks: Any = None) -> dict[str, Tensor]:
        return {"depth": self.layer(x).exp()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bundles")
    for name, height in (("a", 16), ("b", 16), ("wide", 24)):
        net = Tiny().eval()
        export_bundle(net, folder / name, preprocessing=Preprocessing(height=height, width=16), paths=("fused",))
    return folder


def test_every_path_is_timed_and_the_first_bundle_is_the_baseline(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    found = bench_bundles(
        [folder / "a", folder / "b"], rounds=5, threads=1, progress=lambda done, total: told.append((done, total))
    )
    levels = [row.level for row in found.rows]
    assert set(levels) == {str(folder / "a"), str(folder / "b")}
    assert all(len(row.measurement.samples_ms) == 5 for row in found.rows)
    assert told[-1][0] == told[-1][1]


def test_what_cannot_be_compared_is_refused_before_anything_is_timed(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "a")
    for twice in (folder / "a", folder / "b" / ".." / "a", folder / "link"):
        with pytest.raises(InputError, match="the same bundle is given twice"):
            bench_bundles([folder / "a", twice])
    with pytest.raises(InputError, match=r"different shapes \[\(1, 3, 16, 16\), \(1, 3, 24, 16\)\]"):
        bench_bundles([folder / "a", folder / "wide"])


def test_a_changed_byte_is_noticed_before_anything_is_timed(folder: Path) -> None:
    graph = folder / "wide" / "fused.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    with pytest.raises(CheckFailed, match=r"fused\.onnx"):
        bench_bundles([folder / "wide"])
