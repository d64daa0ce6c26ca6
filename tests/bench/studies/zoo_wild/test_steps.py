"""One network by hand through both tools, as the command runs them; what goes wrong on the way is a row."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimtask.bench.studies.harness import run_module
from slimtask.bench.studies.zoo_wild import peer, slim, steps
from slimtask.bench.studies.zoo_wild.peer import heads_of, output_layers, tell_attention_
from slimtask.bench.studies.zoo_wild.subjects import Subject, subject
from slimtask.errors import CheckFailed, InputError

NAME = "own/hard-sharing"


def run(tool: str, folder: Path) -> dict[str, Any]:
    steps.run(tool, NAME, folder)
    return json.loads((folder / "row.json").read_text())


def test_slimtask_halves_a_network_and_every_check_holds(tmp_path: Path) -> None:
    row = run("slimtask", tmp_path)
    assert (row["status"], row["reason"]) == ("pass", "")
    assert 0.6 < row["share"] < 0.8
    assert row["channels_removed"] <= row["channels"] / 2
    assert row["certificate_max_rel_error"] <= 1e-5
    assert row["zeroed_rel_error"] <= 1e-5
    assert row["groups_open"] > row["groups_refused"] > 0
    assert sum(counts["groups"] for counts in row["reasons"].values()) >= row["groups_refused"]
    assert row["seconds"] > row["seconds_analysis"] > 0


@pytest.mark.filterwarnings("ignore")
def test_torch_pruning_halves_it_too_and_spares_the_outputs(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    row = run("peer", tmp_path)
    assert (row["status"], row["reason"]) == ("runs", "")
    assert 0.6 < row["share"] < 0.8


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InputError("nothing may go."), "refused", ""),
        (CheckFailed("not exact"), "fail", "wrong"),
        (IndexError("out of range"), "fail", "traceback"),
    ],
)
def test_how_it_ends_is_the_status(
    error: Exception, status: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(slim, "prune", stop)
    row = run("slimtask", tmp_path)
    assert (row["status"], row["kind"]) == (status, kind)
    assert str(error) in row["reason"]


ENDLESS = """
from slimtask.bench.studies.zoo_wild import steps

def spin(*_):
    while True:
        pass

steps.TOOLS["slimtask"] = spin
steps.main()
"""


def test_a_step_that_takes_too_long_is_a_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    given = ["slimtask", NAME, str(tmp_path), "--cpu-seconds", "1"]
    assert run_module("endless", given, tmp_path / "log.txt", 300.0) == ""
    row = json.loads((tmp_path / "row.json").read_text())
    assert (row["status"], row["kind"]) == ("fail", "timeout")


def test_damage_to_the_users_network_is_a_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = slim.prune

    def damaging(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        done = real(model, *args, **kwargs)
        model.eval()
        return done

    monkeypatch.setattr(slim, "prune", damaging)
    row = run("slimtask", tmp_path)
    assert (row["status"], row["kind"]) == ("fail", "damage")
    assert "training" in row["reason"]


def test_a_result_that_shares_memory_with_the_users_network_is_a_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = slim.prune

    def sharing(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        done = real(model, *args, **kwargs)
        done.model.scene[2].bias = model.scene[2].bias
        return done

    monkeypatch.setattr(slim, "prune", sharing)
    row = run("slimtask", tmp_path)
    assert (row["status"], row["kind"]) == ("fail", "damage")
    assert "scene.2.bias" in row["reason"]


def test_a_removal_that_changes_the_outputs_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slim, "complaint", lambda *args, **kwargs: "its outputs are others")
    row = run("slimtask", tmp_path)
    assert (row["status"], row["kind"]) == ("fail", "wrong")


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 2, 4
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        return self.proj(heads[..., 0, :, :].flatten(-2)).softmax(dim=-1)


def test_output_layers_are_those_that_no_other_layer_follows() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), Attending()).eval()
    assert output_layers(net, torch.randn(1, 4)) == [net[2].proj]
    sharing = subject(NAME).model
    ends = [*(sharing.heads["classes"], sharing.depth, sharing.normals), sharing.scene[2]]
    assert set(output_layers(sharing, torch.randn(1, 3, 64, 64))) == set(ends)


def test_attention_is_told_the_sizes_of_its_layers() -> None:
    net = Attending()
    assert heads_of(net) == {net.qkv: 2}
    net.qkv = nn.Linear(8, 12)
    tell_attention_(net, {net.qkv: 2})
    assert net.head_dim == 2


def test_a_network_that_torch_pruning_breaks_is_a_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_pruning")
    monkeypatch.setattr(steps, "subject", lambda name: Subject(model=Broken(), example=torch.zeros(1, 3, 8, 8)))
    monkeypatch.setattr(peer, "output_layers", lambda *args: [])
    row = run("peer", tmp_path)
    assert row["status"] == "fail"


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x)).view(1, 4, 64)
