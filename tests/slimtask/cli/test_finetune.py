"""`compress --recalibrate --finetune --distil --rounds`: what they change, what they leave, what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from slimtask.checkpoint import Checkpoint
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.tuning import output_distance
from slimtask.train import prepare
from slimtask.train.batches import in_order
from slimtask.train.data import config as data_config
from slimtask.train.recipe import parse_recipe

RECIPE = """
name: tiny
data: {height: 32, width: 48, train: 16, val: 6, test: 6, cache: true, tasks: [segmentation, depth]}
model: {width: 0.125, head_hidden: 8}
train: {steps: 20, batch: 4, lr: 0.003, eval_every: 20}
"""
MODULE = """
from torch import nn

class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()
        )
        self.depth, self.other = nn.Conv2d(16, 1, 1), nn.Conv2d(16, 2, 1)
    def forward(self, x):
        x = self.body(x)
        return {"depth": self.depth(x), "other": self.other(x)}

class Vector(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    def forward(self, x):
        return self.net(x)
"""
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
FLOPS = ("--flops", 0.5, "--align", 2)


@pytest.fixture(scope="module")
def home(slimtask: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a trained network, what is left of it after a cut, and a module of the user's."""
    folder = tmp_path_factory.mktemp("finetune")
    (folder / "tiny.yaml").write_text(RECIPE)
    (folder / "six.yaml").write_text(RECIPE.replace("batch: 4, lr: 0.003", "batch: 6, lr: 0.002"))
    (folder / "maps_of_a_test.py").write_text(MODULE)
    assert slimtask("train", folder / "tiny.yaml", "--out", folder / "run") == 0
    (folder / "run" / "checkpoint.safetensors").rename(folder / "net.safetensors")
    assert slimtask("compress", folder / "net.safetensors", *FLOPS, "--out", folder / "cut.safetensors") == 0
    return folder


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


@pytest.fixture
def tuned(slimtask: Callable[..., int], tmp_path: Path) -> Callable[..., tuple[Checkpoint, Any]]:
    """Return a function that compresses the trained network with further words, to (checkpoint, JSON result)."""

    def run(*more: object, cut: tuple[object, ...] = FLOPS, name: str = "tuned") -> tuple[Checkpoint, Any]:
        out, result = tmp_path / f"{name}.safetensors", tmp_path / f"{name}.json"
        assert slimtask("compress", "net.safetensors", *cut, *more, "--out", out, "--json", result) == 0
        return Checkpoint.load(out), json.loads(result.read_text())

    return run


def distance_to_dense(checkpoint: Checkpoint) -> float:
    """Return the distance on the validation split, all images in one batch."""
    dense = Checkpoint.load("net.safetensors")
    recipe = parse_recipe(dense.provenance["recipe"])
    assert dense.preprocessing is not None
    ((images, _),) = in_order(data_config.open_dataset(recipe.data, "val"), dense.preprocessing, 6)
    with torch.no_grad():
        return float(output_distance(rebuild(checkpoint)(images), rebuild(dense)(images)))


def test_recalibration_changes_the_statistics_and_nothing_else(tuned: Callable[..., Any]) -> None:
    after, result = tuned("--recalibrate", 3)
    before = Checkpoint.load("cut.safetensors")
    changed = {name for name, x in after.weights.items() if not torch.equal(x, before.weights[name])}
    assert changed
    assert all(name.endswith(STATISTICS) for name in changed)
    assert {name.rpartition(".")[2] for name in changed} >= {"running_mean", "running_var"}
    assert after.edits == before.edits
    assert result["certificate"]["holds"] is True
    assert result["training"]["recalibrated_batches"] == 3
    assert [stage["stage"] for stage in result["validation"]] == ["dense", "cut", "tuned"]


def test_the_teacher_brings_the_network_nearer_to_the_dense_one(
    tuned: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, open_dataset = [], prepare.open_dataset
    monkeypatch.setattr(prepare, "open_dataset", lambda c, split: opened.append(split) or open_dataset(c, split))
    words = ("--finetune", 24, "--distil", 1, "--lr", 0.004, "--recalibrate", 4)
    checkpoint, result = tuned(*words)
    assert set(opened) == {"train", "val"}  # what is tuned never sees the test split
    dense, cut, after = result["validation"]
    assert dense["distance"] == 0
    assert after["distance"] < 0.7 * cut["distance"]
    assert checkpoint.provenance["validation"] == after["metrics"]
    told = checkpoint.provenance["compressed"][-1]["training"]
    assert (told["steps"], told["lr"], told["distil"], told["recalibrated_batches"]) == (24, 0.004, 1.0, 4)
    assert told["last_loss"] < told["first_loss"]
    again, _ = tuned(*words, name="again")
    assert all(torch.equal(x, again.weights[name]) for name, x in checkpoint.weights.items())


def test_the_scores_are_those_of_the_networks(tuned: Callable[..., Any]) -> None:
    """The validation batch holds all six images, so the distance can be taken over all at once."""
    checkpoint, result = tuned("--finetune", 5, "--calibration", "six.yaml")
    dense, cut, after = result["validation"]
    assert after["distance"] == pytest.approx(distance_to_dense(checkpoint), rel=1e-3)
    assert cut["distance"] == pytest.approx(distance_to_dense(Checkpoint.load("cut.safetensors")), rel=1e-3)
    theirs = Checkpoint.load("net.safetensors").provenance["validation"]
    assert dense["metrics"]["depth"]["abs_rel"] == pytest.approx(theirs["depth"]["abs_rel"], rel=1e-4)
    assert result["training"]["distil"] == 0
    assert result["training"]["lr"] == 0.002  # the recipe's


def test_a_network_that_tuning_made_worse_is_said_aloud(
    tuned: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for rate, worse in ((0.3, True), (0.004, False)):
        _, result = tuned("--finetune", 8, "--distil", 0.5, "--lr", rate, name=f"at {rate}")
        _, cut, after = result["validation"]
        assert (after["distance"] > cut["distance"] or after["loss"] > cut["loss"]) is worse
        printed = " ".join(capsys.readouterr().out.split())
        assert ("tuning made it worse: the" in printed) is worse, printed
        assert (f"from {cut['distance']:.4g} to {after['distance']:.4g}" in printed) is worse


def test_rounds_end_at_the_same_budget_and_the_file_rebuilds(
    tuned: Callable[..., Any], slimtask: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, result = tuned("--finetune", 3, "--distil", 0.5, "--rounds", 2)
    assert result["after"]["flops"] <= 0.5 * result["before"]["flops"]
    assert len(checkpoint.edits) == len(result["rounds"]) == 2
    assert all(one["certificate"]["holds"] for one in result["rounds"])
    steps = checkpoint.provenance["compressed"]
    assert [(step["round"], step["training"]["steps"]) for step in steps] == [(1, 3), (2, 3)]
    stages = [(stage["stage"], stage["round"]) for stage in result["validation"]]
    assert stages == [("dense", 0), ("cut", 1), ("tuned", 1), ("cut", 2), ("tuned", 2)]
    model = rebuild(checkpoint)
    assert all(torch.equal(x, checkpoint.weights[name]) for name, x in model.state_dict().items())
    capsys.readouterr()
    assert slimtask("verify", result["checkpoint"]) == 0
    assert slimtask("inspect", result["checkpoint"]) == 0
    assert "trained on after the cut round 2 of 2: steps 3" in " ".join(capsys.readouterr().out.split())


def test_a_network_cut_to_a_latency_is_trained_on_too(
    tuned: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from slimtask.compress.api.checkpoints import compress_checkpoint
    from slimtask.compress.api.how import Prune
    from slimtask.compress.score.budget import Budget

    def cut(network: Any, *_: Any, **__: Any) -> Any:
        smaller, compressed = compress_checkpoint(network.checkpoint, Prune(Budget(flops=0.5)))
        return smaller, SimpleNamespace(compressed=compressed, paths=(), skip=None)

    monkeypatch.setattr("slimtask.cli.compress.compress_measured", cut)
    monkeypatch.setattr("slimtask.cli.compress.show_paths", lambda done: {})
    checkpoint, result = tuned("--finetune", 2, cut=("--latency-ms", 5))
    assert result["training"]["steps"] == checkpoint.provenance["compressed"][-1]["training"]["steps"] == 2


def test_a_network_of_the_users_own_learns_from_images_alone(
    slimtask: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has no tasks; by name and kind the data could score one of them only if --tasks said so."""
    own = ("compress", "--model", "maps_of_a_test:Maps", "--input", "1x3x32x48", *FLOPS, "--calibration", "tiny.yaml")
    out = ("--out", tmp_path / "s.safetensors")
    refused(slimtask, capsys, "--finetune needs the losses of tasks", *own, "--finetune", 2, *out)
    assert "--distil 1, which needs images only" in " ".join(refusal(slimtask, capsys, *own, "--finetune", 2, *out))
    refused(slimtask, capsys, "no BatchNorm with running statistics", *own, "--recalibrate", 2, *out)
    (tmp_path / "t.yaml").write_text(
        "- {name: depth, kind: depth, channels: 1}\n- {name: other, kind: segmentation, channels: 2}\n"
    )
    named = (*own, "--tasks", tmp_path / "t.yaml", *out, "--json", tmp_path / "r.json")
    refused(slimtask, capsys, "unknown task 'other'", *named, "--finetune", 2)
    assert slimtask(*named, "--finetune", 10, "--distil", 1) == 0
    _, cut, after = json.loads((tmp_path / "r.json").read_text())["validation"]
    assert after["distance"] < cut["distance"]
    assert after["metrics"].keys() == {"depth"}


def refusal(slimtask: Callable[..., int], capsys: pytest.CaptureFixture[str], *words: object) -> list[str]:
    capsys.readouterr()
    assert slimtask(*words) == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    return printed.split()


def refused(slimtask: Callable[..., int], capsys: pytest.CaptureFixture[str], sentence: str, *words: object) -> None:
    printed = " ".join(refusal(slimtask, capsys, *words))
    assert sentence in printed, printed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--recalibrate", 2), "removing zeros or what no task needs is exact"),
        (("--zeros", "--finetune", 2), "--finetune mends what a budget or a task's own mask takes"),
        (("--per-task", "--finetune", 2), "--finetune mends what a budget or a task's own mask takes"),
        ((*FLOPS, "--rounds", 2), "--rounds says how to train after a cut; add --finetune"),
        ((*FLOPS, "--distil", 0.5), "--distil says how to train"),
        ((*FLOPS, "--lr", 0.5), "--lr says how to train"),
        ((*FLOPS, "--finetune", 0), "--finetune takes a count from 1 to 1,000,000,000, not 0"),
        ((*FLOPS, "--finetune", 10**400), "--finetune takes a count from 1 to 1,000,000,000, not 1000000"),
        ((*FLOPS, "--recalibrate", -1), "--recalibrate takes a count from 1 to"),
        ((*FLOPS, "--finetune", 2, "--rounds", 0), "--rounds takes a count from 1 to"),
        ((*FLOPS, "--finetune", 2, "--distil", 200), "--distil takes a share of the loss above 0 and up to 1, not 200"),
        ((*FLOPS, "--finetune", 2, "--distil", 0), "--distil takes a share"),
        ((*FLOPS, "--finetune", 2, "--lr", -1), "--lr takes a learning rate above 0"),
        ((*FLOPS, "--finetune", 2, "--lr", "nan"), "--lr takes a learning rate above 0"),
        (("--latency-ms", 5, "--finetune", 2, "--rounds", 2), "--rounds cuts to shares of --keep, --params or --flops"),
        (("--flops", 0.5, "--align", "auto", "--finetune", 2, "--rounds", 2), "--rounds cuts to shares"),
        ((*FLOPS, "--finetune", 2, "--calibration", "none.yaml"), "does not exist"),
        ((*FLOPS, "--finetune", 2, "--lr", 1e30), "smaller learning rate"),
        (("--params", 3, "--finetune", 2, "--rounds", 2), "smallest network possible"),
    ],
)
def test_wrong_words_are_one_sentence(
    slimtask: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[object, ...],
    sentence: str,
) -> None:
    refused(slimtask, capsys, sentence, "compress", "net.safetensors", *words, "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_images_or_recipe_is_refused(
    slimtask: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--keep", 0.5, "--finetune", 2, "--distil", 1, "--out", tmp_path / "out.safetensors")
    vector = ("compress", "--model", "maps_of_a_test:Vector", "--input", "1x6")
    refused(slimtask, capsys, "needs a network of one RGB image", *vector, *more, "--calibration", "tiny.yaml")
    maps = ("compress", "--model", "maps_of_a_test:Maps", "--input", "1x3x32x48")
    refused(slimtask, capsys, "give --calibration RECIPE", *maps, *more)


def test_ctrl_c_writes_nothing(
    slimtask: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("slimtask.train.tune.finetune", pressed)
    out = tmp_path / "out.safetensors"
    assert slimtask("compress", "net.safetensors", *FLOPS, "--finetune", 2, "--out", out) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
