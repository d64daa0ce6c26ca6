"""`compress --per-task --masks`: no network is shipped that was never trained, unless the user says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slimtask.checkpoint import Checkpoint
from slimtask.cli.factory import load_factory
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.structures.masks import Masks
from slimtask.tasks import Preprocessing
from slimtask.train.data.config import open_dataset
from slimtask.train.evaluate import evaluate
from slimtask.train.recipe import parse_recipe

RECIPE = {
    "name": "tiny",
    "data": {"height": 32, "width": 48, "train": 8, "val": 4, "cache": True, "tasks": ["segmentation", "depth"]},
    "train": {"batch": 4, "lr": 0.003},
}
SIZE = Preprocessing(height=32, width=48)
MODULE = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()
        )
        self.segmentation, self.depth = nn.Conv2d(16, 13, 1), nn.Conv2d(16, 1, 1)
    def forward(self, x):
        x = self.body(x)
        return {"segmentation": self.segmentation(x), "depth": self.depth(x)}
"""
OWN = ("--model", "two_tasks_of_a_test.py:Two", "--input", "1x3x32x48", "--tasks", "tasks.yaml")


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a network, masks of half of the body's weights for each task, and masks that take nothing."""
    monkeypatch.chdir(tmp_path)
    Path("two_tasks_of_a_test.py").write_text(MODULE)
    Path("tiny.yaml").write_text(json.dumps(RECIPE))
    Path("tasks.yaml").write_text(
        "- {name: segmentation, kind: segmentation, channels: 13}\n- {name: depth, kind: depth, channels: 1}\n"
    )
    draw, shapes = torch.Generator().manual_seed(0), {"body.0.weight": (16, 3, 3, 3), "body.2.weight": (16, 16, 3, 3)}
    per_task = {
        task: {name: torch.rand(shape, generator=draw) < 0.5 for name, shape in shapes.items()}
        for task in ("segmentation", "depth")
    }
    per_task["depth"]["body.0.weight"][:4] = False  # four channels that depth does without
    Masks(per_task=per_task).save("masks.safetensors")
    whole = {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
    Masks(per_task=dict.fromkeys(per_task, whole)).save("whole.safetensors")


@pytest.fixture
def per_task(slimtask: Callable[..., int]) -> Callable[..., int]:
    """Return a function that makes a network for each task under masks, with further words."""

    def run(*words: object, masks: str = "masks.safetensors", out: str = "each") -> int:
        return slimtask("compress", *OWN, "--per-task", "--masks", masks, *words, "--align", 1, "--out", out)

    return run


def test_networks_that_were_never_trained_are_refused_or_said_aloud(
    per_task: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ((), ("--recalibrate", 2)):
        assert per_task(*words) == 2
        printed = " ".join(capsys.readouterr().err.split())
        assert "the networks union, segmentation, depth compute what was never trained; add --finetune STEPS" in printed
        assert not Path("each").exists()
    assert per_task("--finetune", 0, "--json", "r.json") == 0
    assert "not trained under their masks: union, segmentation, depth" in capsys.readouterr().out
    assert json.loads(Path("r.json").read_text())["untrained"] == ["union", "segmentation", "depth"]


def test_each_network_is_trained_under_its_own_mask(
    per_task: Callable[..., int], slimtask: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--finetune", 20, "--distil", 1, "--lr", 0.01, "--calibration", "tiny.yaml")
    assert per_task(*words, "--json", "r.json") == 0
    result, masks = json.loads(Path("r.json").read_text()), Masks.load("masks.safetensors")
    assert result["untrained"] == []
    assert "Quality on the validation split" in capsys.readouterr().out
    data, factory = open_dataset(parse_recipe(RECIPE).data, "val"), load_factory(OWN[1])
    for name in ("segmentation", "depth"):
        given, own, tuned = result["validation"][name]
        assert [stage["stage"] for stage in (given, own, tuned)] == ["given", "own mask", "tuned"]
        assert given["distance"] == 0
        assert tuned["distance"] < 0.7 * own["distance"]
        checkpoint = Checkpoint.load(f"each/{name}.safetensors")
        assert checkpoint.provenance["training"]["steps"] == 20
        for weight, mask in masks.of_task(name).items():  # depth's dead channels are gone, with what they would hold
            assert int((checkpoint.weights[weight] != 0).sum()) <= int(mask.sum())
        tasks = [task for task in checkpoint.tasks if task.name == name]
        models = factory().eval(), masks.applied(factory(), [name]).eval(), rebuild(checkpoint, factory)
        for model, stage in zip(models, (given, own, tuned), strict=True):
            (metrics,) = evaluate(model, data, SIZE, tasks=tasks).metrics.values()
            assert metrics == pytest.approx(stage["metrics"][name], rel=1e-4)
    assert checkpoint.weights["body.0.weight"].shape[0] < 16
    assert slimtask("inspect", "each/depth.safetensors", *OWN[:2]) == 0
    assert "trained on under masks of its own: steps 20" in " ".join(capsys.readouterr().out.split())


def test_what_computes_what_the_given_network_does_is_not_trained(
    per_task: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert per_task("--finetune", 5, masks="whole.safetensors") == 0
    assert "every network computes what the one given does" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--finetune", -1), "--finetune takes a count from 0 to 1,000,000,000, not -1"),
        (("--finetune", 2, "--rounds", 2), "--rounds cuts to shares of a budget"),
        (("--distil", 0.5), "--distil says how to train"),
        (("--calibration", "none.yaml"), "--calibration needs a budget"),
        (("--finetune", 2, "--calibration", "none.yaml"), "does not exist"),
        (("--finetune", 2), "give --calibration RECIPE"),
        (("--finetune", 2, "--sets", "depth+sound"), "no task 'sound'"),
    ],
)
def test_wrong_words_are_one_sentence(
    per_task: Callable[..., int], capsys: pytest.CaptureFixture[str], words: tuple[object, ...], sentence: str
) -> None:
    assert per_task(*words) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert sentence in printed, printed
    assert not Path("each").exists()
