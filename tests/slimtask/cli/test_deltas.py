"""`slimtask inspect` on delta files: the figures are those of the delta, damaged files are one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from slimtask.compress.structures.delta import Change, Delta, digest
from slimtask.compress.structures.patterns import OutChannels


def test_inspect_shows_what_a_delta_changes(
    slimtask: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = torch.tensor([[True], [False], [False], [False]]).expand(4, 8)
    change = Change.of(OutChannels(), mask * 1.5, mask.clone())
    base = digest(nn.Linear(8, 4), ["weight"])
    path, out = tmp_path / "depth.safetensors", tmp_path / "out.json"
    Delta(task="depth", base=base, changes={"weight": change}).save(path)
    assert slimtask("inspect", path, "--json", out) == 0
    found = json.loads(out.read_text())
    assert (found["task"], found["density"], found["densities"]) == ("depth", 0.25, {"weight": 0.25})
    assert found["size"] == {"values_bytes": 32, "index_bytes": 4, "dense_bytes": 128}
    assert "36 bytes instead of 128" in " ".join(capsys.readouterr().out.split())
    assert slimtask("costs", path) == 2
    assert f"'{path}' holds the delta of a sub-task, not a network" in " ".join(capsys.readouterr().err.split())
    path.write_bytes(path.read_bytes()[:-8])
    assert slimtask("inspect", path) == 2
    assert "Traceback" not in capsys.readouterr().err
