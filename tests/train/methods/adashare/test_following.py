"""Training a given or a random policy, and policies at the edge: one path for all, nothing executed at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from slimtask.checkpoint import Checkpoint
from slimtask.cli.app import app
from slimtask.compress.edits.branches import BatchNormKind, BranchPaths
from slimtask.compress.edits.skip import SkipBlocks
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.structures.policy import Policy
from slimtask.errors import InputError
from slimtask.train.methods.adashare.following import edits_of
from slimtask.train.recipe import Recipe, parse_recipe
from slimtask.train.run import train

ALL, NONE = [True] * 8, [False] * 8


def recipe(**policy: Any) -> Recipe:
    return parse_recipe(
        {
            "data": {"name": "scenes", "height": 32, "width": 32, "train": 6, "val": 4, "test": 4, "cache": True,
                     "tasks": ["depth", "objects"]},
            "model": {"width": 0.125, "head_hidden": 8},
            "train": {"steps": 2, "batch": 2, "eval_every": 2},
            "policy": policy,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("select", "executed"),
    [
        ({"depth": ALL, "objects": NONE}, 0.5),
        ({"depth": NONE, "objects": NONE}, 0.0),
        ({"depth": [True, False] * 4, "objects": [True, False] * 4}, 0.5),
    ],
)
def test_policies_at_the_edge_train_and_rebuild(select: dict[str, list[bool]], executed: float, tmp_path: Path) -> None:
    result = train(recipe(select=select), tmp_path / "run")
    policy = Policy.load(tmp_path / "run" / "policy.json")
    assert {task: list(row) for task, row in policy.selects.items()} == select
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["policy"]["executed"] == executed
    model = rebuild(Checkpoint.load(result.checkpoint))
    assert sum(hasattr(block, "residual") for block in model.trunk.blocks.values()) == sum(policy.union())
    with torch.no_grad():
        predictions = model(torch.zeros(1, 3, 32, 32))
    assert set(predictions) == {"depth", "objects"}
    assert all(bool(torch.isfinite(prediction).all()) for prediction in predictions.values())


def test_the_edit_is_no_larger_than_the_policy_asks() -> None:
    def edits(a: list[bool], b: list[bool], batchnorm: BatchNormKind = "per-path") -> tuple[Any, ...]:
        blocks = tuple(f"b{number}" for number in range(8))
        return edits_of(Policy(blocks=blocks, selects={"a": tuple(a), "b": tuple(b)}), batchnorm)

    assert edits(ALL, ALL) == ()
    assert edits(NONE, NONE) == (SkipBlocks(blocks=tuple(f"b{number}" for number in range(8))),)
    assert isinstance(edits(ALL, NONE)[0], BranchPaths)
    assert edits(ALL, NONE)[0].batchnorm == "per-path"
    assert edits(ALL, ALL, "per-task")[0].batchnorm == "per-task"


def test_a_random_policy_of_the_cost_asked_for_is_trained(tmp_path: Path) -> None:
    trained = train(recipe(random={"seed": 3, "trunks": 1.2}), tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["policy"]["trunks"] == pytest.approx(1.2, rel=0.02)
    assert "notes" not in summary
    assert trained.notes == ()


@pytest.mark.parametrize(("row", "what"), [(ALL, "nothing"), (NONE, "everything")])
def test_a_policy_that_is_none_is_told(row: list[bool], what: str, tmp_path: Path) -> None:
    written = tmp_path / "recipe.yaml"
    written.write_text(yaml.safe_dump(recipe(select={"depth": row, "objects": row}).model_dump(mode="json")))
    done = CliRunner().invoke(app, ["train", str(written), "--out", str(tmp_path / "run")])
    assert f"the policy skips {what}:" in done.output
    assert what in json.loads((tmp_path / "run" / "summary.json").read_text())["notes"][0]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"select": {"depth": ALL}}, "policy.select decides for depth, the recipe learns depth, objects"),
        ({"select": {"depth": ALL, "objects": [True]}}, "decides on 1 blocks for 'objects', the trunk has 8: layer1.0"),
        ({"select": {"depth": ALL}, "random": {"trunks": 0.5}}, "'select' and 'random' are two policies"),
        ({"keep_weights": True, "batchnorm": "per-task"}, "keep_weights needs 'batchnorm: per-path'"),
    ],
)
def test_policies_that_do_not_fit_are_refused(policy: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        train(recipe(**policy), tmp_path / "run")
    assert not (tmp_path / "run").exists()
