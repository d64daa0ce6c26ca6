"""Tuning with scores, called from Python: the numbers on the command line are tested with `slimtask compress`."""

from __future__ import annotations

import pytest

from slimtask.checkpoint import Checkpoint
from slimtask.compress.api.how import Prune
from slimtask.compress.api.rounds import compress_in_rounds
from slimtask.compress.score.budget import Budget
from slimtask.errors import InputError
from slimtask.train.prepare import data_for, device_of
from slimtask.train.recipe import Recipe, parse_recipe
from slimtask.train.run import train
from slimtask.train.tune import Tuner


def recipe(*tasks: str) -> Recipe:
    return parse_recipe(
        {
            "data": {"name": "scenes", "height": 32, "width": 32, "train": 8, "val": 2, "test": 2, "tasks": [*tasks]},
            "model": {"width": 0.125, "head_hidden": 8},
            "train": {"steps": 2, "batch": 2},
        }
    )


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.load(train(recipe("depth"), tmp_path_factory.mktemp("tune") / "run").checkpoint)


def test_every_round_is_trained_and_scored(dense: Checkpoint) -> None:
    tuner = Tuner(dense, data_for(dense, recipe("depth")), finetune=2, distil=0.5, recalibrate=1, rounds=2)
    smaller, cuts = compress_in_rounds(dense, Prune(Budget(keep=0.5), align=2), rounds=2, between=tuner)
    assert [(stage.stage, stage.round) for stage in tuner.stages] == [
        ("dense", 0), ("cut", 1), ("tuned", 1), ("cut", 2), ("tuned", 2),
    ]  # fmt: skip
    assert tuner.stages[0].distance == 0 < tuner.stages[1].distance
    assert len(cuts) == 2
    training = [step["training"] for step in smaller.provenance["compressed"]]
    assert [(facts["steps"], facts["distil"], facts["recalibrated_batches"]) for facts in training] == [(2, 0.5, 1)] * 2
    assert smaller.provenance["validation"] == tuner.stages[-1].metrics


def test_data_must_have_the_networks_tasks_unless_images_are_enough(dense: Checkpoint) -> None:
    other = recipe("normals")
    with pytest.raises(InputError, match="takes no single RGB image"):
        data_for(dense.with_changes(preprocessing=None), other)
    assert [task.name for task in data_for(dense, other).tasks] == ["depth"]  # a recipe's tasks do not bind it
    images = data_for(dense.with_changes(tasks=()), other, targets=False)
    assert images.tasks == ()
    assert len(images.split("val")) == 2


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device_of("auto").type == "cpu"
    with pytest.raises(InputError, match="no CUDA device is visible"):
        device_of("cuda")
