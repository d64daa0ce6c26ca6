"""`slimtask inspect` on masks files: the table's figures are those of the masks, wrong words are one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slimtask.compress.structures.masks import Masks

A, B = torch.tensor([True, True, True, False]), torch.tensor([False, True, True, True])


def test_inspect_shows_densities_and_overlap(slimtask: Callable[..., int], tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    Masks(per_task={"a": {"trunk.w": A, "heads.a.w": B}, "b": {"trunk.w": B}}).save(path)
    out, plot = tmp_path / "out.json", tmp_path / "iou.svg"
    assert slimtask("inspect", path, "--plot", plot, "--json", out) == 0
    found = json.loads(out.read_text())
    assert found["densities"] == {"trunk.w": 1.0, "heads.a.w": 0.75}
    assert found["density"] == 0.875
    assert [(layer["layer"], layer["mean"]) for layer in found["overlap"]["layers"]] == [("trunk.w", 0.5)]
    assert found["overlap"]["total"]["exactly_two"] == 0.5
    assert "<svg" in plot.read_text()


def test_masks_of_all_tasks_have_densities_only(
    slimtask: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "masks.safetensors"
    Masks(shared={"trunk.w": A}).save(path)
    assert slimtask("inspect", path) == 0
    assert "75.00% of the masked weights stay" in capsys.readouterr().out
    assert slimtask("inspect", path, "--plot", tmp_path / "iou.svg") == 2
    assert "overlaps with nothing" in " ".join(capsys.readouterr().err.split())
    assert slimtask("inspect", tmp_path / "other", "--plot", tmp_path / "iou.svg") == 2
    assert "give a masks file" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "iou.svg").exists()
