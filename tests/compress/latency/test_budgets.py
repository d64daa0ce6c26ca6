"""Latency budgets, met by measurement on the graph that serves the tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from slimtask.bench.layers.meter import meter_of
from slimtask.compress.latency.budgets import prune_to_latency
from slimtask.errors import CheckFailed, InputError
from tests.meters import LawfulMeter


class Two(nn.Module):
    """A shared stem and a head each for two tasks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())
        self.near = nn.Sequential(nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 1, 1))
        self.far = nn.Sequential(nn.Conv2d(32, 16, 1), nn.ReLU(), nn.Conv2d(16, 2, 1))

    def forward(self, x: torch.Tensor, tasks: Any = None) -> dict[str, torch.Tensor]:
        y = self.stem(x)
        return {name: getattr(self, name)(y) for name in ("near", "far") if tasks is None or name in tasks}


IMAGE = torch.randn(1, 3, 48, 48)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_several_budgets_are_each_met_on_their_own_graph() -> None:
    meter = LawfulMeter(graph_ms=lambda path: path.stat().st_size * 1e-4)
    dense = prune_to_latency(Two().eval(), IMAGE, {"all": 1e9}, meter).paths[0].dense_ms
    budgets = {"all": 0.6 * dense, "far": 0.3 * dense}
    done = prune_to_latency(Two().eval(), IMAGE, budgets, meter)
    assert [row.path for row in done.paths] == ["all", "far"]
    assert all(row.met for row in done.paths)
    assert done.compressed.certificate
    assert done.compressed.model.stem[0].out_channels < 32


def test_a_budget_that_measurement_never_meets_is_a_failed_check() -> None:
    meter = LawfulMeter(graph_ms=lambda path: 10.0)
    with pytest.raises(CheckFailed, match="all took 10 ms of 8"):
        prune_to_latency(Two().eval(), IMAGE, {"all": 8.0}, meter, tries=2)


def test_what_cannot_be_budgeted_is_one_sentence() -> None:
    with pytest.raises(InputError, match="there is no path 'depth'"):
        prune_to_latency(Two().eval(), IMAGE, {"depth": 1.0}, meter_of("onnxruntime-cpu"))
    with pytest.raises(InputError, match="the one backend with a layer table"):
        meter_of("onnxruntime-cuda")


class Chain(nn.Module):
    """A stem, four residual blocks and a head; the second block has kernels of its own, which may have any price."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 2, 1)
        self.blocks = nn.Sequential(*[BasicBlock(16, 16) for _ in range(4)])
        self.blocks[1].conv1 = nn.Conv2d(16, 16, 5, padding=2)
        self.blocks[1].conv2 = nn.Conv2d(16, 16, 5, padding=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).relu())


def layers_ms(flat: float) -> Callable[..., float]:
    """Layers of 5 x 5 take ``flat`` milliseconds whatever their channels, all others a microsecond a channel pair."""
    return lambda shape, inputs, outputs, **_: flat if shape.kernel == (5, 5) else 1e-3 * inputs * outputs


def graph_ms(flat: float) -> Callable[[Path], float]:
    """What a graph takes by the same law, read off its initialisers."""

    def read(path: Path) -> float:
        import onnx

        weights = [t.dims for t in onnx.load(str(path)).graph.initializer if len(t.dims) == 4]
        return sum(flat if list(dims[2:]) == [5, 5] else 1e-3 * dims[0] * dims[1] for dims in weights)

    return read


@pytest.mark.parametrize("share", [0.3, 0.1])
def test_a_block_goes_where_its_time_does_not_follow_its_channels(share: float) -> None:
    meter = LawfulMeter(layer_ms=layers_ms(4.0), graph_ms=graph_ms(4.0))
    model, image = Chain().eval(), torch.zeros(1, 3, 16, 16)
    dense = 3 * 16e-3 + 32e-3 + 6 * 256e-3 + 2 * 4.0
    done = prune_to_latency(model, image, {"all": share * dense}, meter, align=4)
    (row,) = done.paths
    assert row.dense_ms == pytest.approx(dense)
    assert row.measured_ms == pytest.approx(row.predicted_ms, rel=1e-3)
    assert row.measured_ms <= share * dense
    assert done.skip
    assert "blocks.1" in done.skip.blocks
    assert not {name for name, _ in done.compressed.model.named_parameters() if name.startswith("blocks.1")}
    with pytest.raises(InputError, match="smallest reachable"):
        prune_to_latency(model, image, {"all": share * dense}, meter, align=4, blocks=False)


def test_of_blocks_that_take_as_long_the_one_goes_that_moves_the_outputs_least() -> None:
    meter = LawfulMeter(layer_ms=layers_ms(0.2), graph_ms=graph_ms(0.2))
    model, image = Chain().eval(), torch.zeros(1, 3, 16, 16)
    with torch.no_grad():
        model.blocks[2].bn2.weight.mul_(1e-3)
        model.blocks[2].conv1.weight.mul_(50.0)  # large weights that nothing hears
    dense = 3 * 16e-3 + 32e-3 + 6 * 256e-3 + 2 * 0.2
    done = prune_to_latency(model, image, {"all": dense - 0.5}, meter, align=4)
    assert done.skip
    assert done.skip.blocks == ("blocks.2",)
    assert done.distance < 1e-4
    assert done.noise


def test_a_budget_is_used_and_no_group_falls_below_its_floor() -> None:
    """A stem of one channel and half a budget left over are what a budget must not come to."""
    law = graph_ms(0.2)
    meter = LawfulMeter(layer_ms=layers_ms(0.2), graph_ms=lambda path: 0.6 * law(path))
    model, image = Chain().eval(), torch.zeros(1, 3, 16, 16)
    images = [torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    budget = 0.5 * 0.6 * (3 * 16e-3 + 32e-3 + 6 * 256e-3 + 2 * 0.2)
    how = {"align": 1, "blocks": False, "images": images}
    done = prune_to_latency(model, image, {"all": budget}, meter, floor=0.3, **how)
    assert 0.9 * budget <= done.paths[0].measured_ms <= budget
    assert all(group.after >= 0.3 * group.before for group in done.compressed.plan.groups)
    assert not done.noise
    with pytest.raises(InputError, match=r"smallest reachable is [\d.]+ ms; .*fewer channels"):
        prune_to_latency(model, image, {"all": budget}, meter, floor=0.9, **how)
