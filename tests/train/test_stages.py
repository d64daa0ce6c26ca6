"""Stages: begun, continued or found finished; and one progress over all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimtask.checkpoint import Checkpoint
from slimtask.errors import InputError
from slimtask.train.methods.base import Method
from slimtask.train.recipe import Recipe, parse_recipe
from slimtask.train.run import train
from slimtask.train.stages import open_folder, part_of, run_stage, vanishing_if_refused
from slimtask.train.trials import train_trials


def recipe(seed: int = 0) -> Recipe:
    return parse_recipe(
        {
            "data": {"name": "scenes", "height": 32, "width": 32, "train": 4, "val": 2, "test": 2, "tasks": ["depth"]},
            "model": {"width": 0.125, "head_hidden": 8},
            "train": {"steps": 2, "batch": 2, "seed": seed},
        }
    )


def silent(step: int, steps: int, text: str) -> None:
    pass


def test_a_stage_is_begun_anew_if_it_left_no_state_and_found_if_it_is_finished(tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "recipe.yaml").write_text("cut off in the mid")
    result = run_stage("stage", recipe(), tmp_path, Method, silent)
    assert result.steps == 2
    assert Checkpoint.load(result.checkpoint).provenance["recipe"] == recipe().model_dump(mode="json")
    before, seen = result.checkpoint.read_bytes(), []
    again = run_stage("stage", recipe(), tmp_path, Method, lambda *step: seen.append(step))
    assert again.validation == result.validation
    assert again.checkpoint.read_bytes() == before
    assert seen == []


def test_the_folder_of_the_whole_belongs_to_one_recipe(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(InputError, match="there is nothing to resume"):
        open_folder(recipe(), out, resume=True)
    open_folder(recipe(), out, resume=False)
    open_folder(recipe(), out, resume=True)
    with pytest.raises(InputError, match="exists already"):
        open_folder(recipe(), out, resume=False)
    with pytest.raises(InputError, match="started with another recipe"):
        open_folder(recipe(seed=1), out, resume=True)


@pytest.mark.parametrize("trials", [1, 2])
def test_what_is_refused_leaves_no_folder_behind(trials: int, tmp_path: Path) -> None:
    """So that the same command works once the recipe is mended."""
    camvid = {"name": "camvid", "root": str(tmp_path / "nowhere")}
    wrong = parse_recipe({"data": camvid, "model": {"width": 0.125}, "policy": {}})
    with pytest.raises(InputError, match="nowhere' of 'camvid' does not exist"):
        train_trials(wrong, tmp_path / "run", trials) if trials > 1 else train(wrong, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_what_has_begun_is_kept_when_input_is_refused_later(tmp_path: Path) -> None:
    out = tmp_path / "run"
    open_folder(recipe(), out, resume=False)
    (out / "stage").mkdir()
    with pytest.raises(InputError, match="later"), vanishing_if_refused(out):
        raise InputError("later")
    assert sorted(file.name for file in out.iterdir()) == ["recipe.yaml", "stage"]


def test_progress_counts_through_all_stages() -> None:
    seen: list[tuple[int, int, str]] = []
    part_of(lambda *step: seen.append(step), [10, 4, 6], 2, "last")(5, 6, "loss 1")
    assert seen == [(19, 20, "last: loss 1")]
