"""Every method trains on another device than the CPU, with nothing left behind, to what it trains to on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators import CPUAccelerator
from lightning_fabric.strategies import SingleDeviceStrategy
from torch import Tensor

from slimtask.checkpoint import Checkpoint
from slimtask.train.evaluate import finite
from slimtask.train.recipe import parse_recipe
from slimtask.train.run import train

SECTIONS: dict[str, dict[str, Any]] = {
    "group sparsity": {
        "train": {"weighting": "uncertainty", "metrics": "all"},
        "sparsity": {"target": 0.5, "warmup": 0.2, "ramp": 0.6},
    },
    "static masks": {"masks": {"keep": "exact", "sparsity": 0.7}},
    "dynamic masks": {"masks": {"when": "dynamic", "sparsity": 0.7}},
    "policies": {"policy": {"samples": 2}},
    "base-fed delta": {
        "model": {"trunk": "vit_tiny"},
        "delta": {"base": "segmentation", "gates": {"kind": "units", "density": 0.1}, "feed": "base"},
    },
}
SLOW = ("static masks", "base-fed delta")


def content(sections: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": "tiny",
        "data": {
            "name": "scenes", "height": 16, "width": 32, "train": 4, "val": 2, "test": 2, "cache": True,
            "tasks": ["segmentation", "depth"],
        },
        "model": {"width": 0.125, "head_hidden": 8},
        "train": {"steps": 2, "batch": 2, "lr": 0.001, "eval_every": 2},
    }  # fmt: skip
    for name, section in sections.items():
        made[name] = {**made.get(name, {}), **section}
    if "trunk" in made["model"]:
        made["model"] = {"trunk": made["model"]["trunk"], "head_hidden": 8}
    return made


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in SECTIONS]
)
def test_it_trains_there_to_what_it_trains_to_here(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_device: torch.device
) -> None:
    recipe = parse_recipe(content(SECTIONS[method]))
    here = train(recipe, tmp_path / "here")

    def launch(config: Any) -> Fabric:
        return Fabric(strategy=SingleDeviceStrategy(device=other_device, accelerator=CPUAccelerator()))

    monkeypatch.setattr(CPUAccelerator, "setup_device", lambda *_: None)
    for module in ("loop", "stages", "methods.delta.run"):
        monkeypatch.setattr(f"slimtask.train.{module}.launch", launch)
    moved: list[bool] = []
    forward = torch.nn.functional.linear if "trunk" in recipe.model.model_fields_set else torch.nn.functional.conv2d
    monkeypatch.setattr(torch.nn.functional, forward.__name__, recorded(forward, moved))
    there = train(recipe, tmp_path / "there")
    assert any(moved)
    for task, metrics in finite(here.test.metrics).items():
        assert finite(there.test.metrics)[task] == pytest.approx(metrics, rel=1e-2)
    if recipe.delta is not None:  # a gate more or less opens where sums are rounded otherwise
        return
    wanted, found = Checkpoint.load(here.checkpoint).weights, Checkpoint.load(there.checkpoint).weights
    assert wanted.keys() == found.keys()
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


def recorded(function: Any, moved: list[bool]) -> Any:
    """Return ``function``, which notes whether its input is on a device beside the CPU."""

    def called(x: Tensor, *rest: Any, **options: Any) -> Tensor:
        moved.append(x.device.type != "cpu")
        return function(x, *rest, **options)

    return called
