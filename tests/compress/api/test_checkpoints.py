"""Checkpoints compressed: the plan joins the edits, and provenance tells what was done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slimtask.checkpoint import Architecture, Checkpoint
from slimtask.compress.api.checkpoints import compress_checkpoint
from slimtask.compress.api.how import Prune, Zeros
from slimtask.compress.rebuilding import rebuild, replay
from slimtask.compress.score.budget import Budget
from slimtask.tasks import Preprocessing
from slimtask.train.models import MultiTaskNet


def test_edits_follow_each_other_in_one_checkpoint(
    small_net: Callable[..., MultiTaskNet], kill: Callable[..., None], tmp_path: Path
) -> None:
    model = small_net()
    kill(model, "filter", "trunk")
    dense = Checkpoint(
        weights=model.state_dict(),
        architecture=Architecture(name="multitask-net", arguments={"width": 0.25, "head_hidden": 16}),
        tasks=model.tasks,
        preprocessing=Preprocessing(height=32, width=48),
        provenance={"recipe": {"name": "r"}, "test": {"depth": 1.0}},
    )
    exact, _ = compress_checkpoint(dense, Zeros(align=1))
    pruned, done = compress_checkpoint(exact, Prune(Budget(keep=0.5), by="l1", align=1))
    pruned.save(tmp_path / "p.safetensors")
    again = Checkpoint.load(tmp_path / "p.safetensors")
    assert len(again.edits) == 2
    assert exact.provenance["test"] == {"depth": 1.0}
    assert "test" not in again.provenance  # it was measured on another network
    assert again.provenance["dense"]["test"] == {"depth": 1.0}
    assert again.provenance["recipe"] == {"name": "r"}
    steps = again.provenance["compressed"]
    assert [step["criterion"] for step in steps] == ["zeros", "l1"]
    assert steps[1]["budget"] == {"keep": 0.5}
    x = torch.randn(2, 3, 32, 48)
    expected, got = done.model(x), rebuild(again)(x)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    widths = [before.trunk.stem[0].out_channels for before, _ in replay(again)]
    assert widths[0] == model.trunk.stem[0].out_channels > widths[1]


NetMaker = Callable[..., MultiTaskNet]


Kill = Callable[..., None]


def outputs(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return model.eval()(torch.randn(2, 3, 40, 32, generator=torch.Generator().manual_seed(1)))


def same(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    a, b = outputs(one), outputs(two)
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("what", ["filter", "beta"])
def test_a_compressed_checkpoint_reloads_without_the_dense_weights(
    what: str, small_net: NetMaker, kill: Kill, tmp_path: Path
) -> None:
    model = small_net()
    kill(model, what, "trunk")
    dense = Checkpoint(
        weights=model.state_dict(),
        architecture=Architecture(name="multitask-net", arguments={"width": 0.25, "head_hidden": 16}),
        tasks=model.tasks,
        preprocessing=Preprocessing(height=32, width=48),
    )
    smaller, done = compress_checkpoint(dense)
    smaller.save(tmp_path / "small.safetensors")
    dense.save(tmp_path / "dense.safetensors")
    assert (tmp_path / "small.safetensors").stat().st_size < 0.6 * (tmp_path / "dense.safetensors").stat().st_size
    again = Checkpoint.load(tmp_path / "small.safetensors")
    assert same(rebuild(again), done.model)
    assert again.provenance["certificate"]["tolerance"] == 1e-5
