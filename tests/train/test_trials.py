"""Trials differ in the seed alone, resume, and are averaged as numpy does it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from slimtask.errors import InputError
from slimtask.train.recipe import Recipe, parse_recipe
from slimtask.train.trials import spread, train_trials


def recipe() -> Recipe:
    return parse_recipe({
        "data": {"height": 32, "width": 32, "train": 8, "val": 4, "test": 4, "cache": True, "tasks": ["depth"]},
        "model": {"width": 0.125, "head_hidden": 8},
        "train": {"steps": 3, "batch": 4, "eval_every": 3, "seed": 5},
    })  # fmt: skip


def test_trials_have_other_seeds_a_mean_and_a_spread(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    trials = train_trials(recipe(), tmp_path / "out", 3, progress=lambda step, total, _: steps.append((step, total)))
    errors = [result.test.metrics["depth"]["mae"] for result in trials.results]
    assert len(set(errors)) == 3
    assert trials.mean["depth"]["mae"] == pytest.approx(np.mean(errors))
    assert trials.std["depth"]["mae"] == pytest.approx(np.std(errors, ddof=1))
    assert steps == [(step, 9) for step in range(1, 10)]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["mean"]["depth"]["mae"] == pytest.approx(np.mean(errors))
    shutil.rmtree(tmp_path / "out" / "trial2")
    (tmp_path / "out" / "trial2").mkdir()  # killed before its first state
    again = train_trials(recipe(), tmp_path / "out", 3, resume=True)
    assert again.mean == trials.mean


def test_progress_counts_the_stages_of_a_method(tmp_path: Path) -> None:
    """Of 3 steps of learning and twice 2 of retraining, in each of two trials; of two policies alike one is trained."""
    policy = {"samples": 2, "retrain": 0.5}
    chosen = parse_recipe(recipe().model_dump() | {"policy": policy})
    seen: list[tuple[int, int, str]] = []
    train_trials(chosen, tmp_path / "out", 2, progress=lambda *step: seen.append(step))
    steps = [step for step, _, _ in seen]
    assert {total for _, total, _ in seen} == {14}
    assert steps[:5] == [1, 2, 3, 4, 5]
    assert steps == sorted(steps)
    assert {7, 8, 14} <= set(steps)
    assert next(text for step, _, text in seen if step == 8).startswith("trial 2 of 2: learning: loss")


def test_a_metric_that_is_no_number_in_one_trial_has_no_mean() -> None:
    mean, std = spread([{"edges": {"odsf": value, "mae": value}} for value in (float("nan"), 0.5)])
    assert np.isnan([mean["edges"]["odsf"], std["edges"]["odsf"]]).all()
    mean, std = spread([{"depth": {"rel": value, "mae": 1.0}} for value in (float("inf"), 0.5)])
    assert mean["depth"] == {"rel": float("inf"), "mae": 1.0}
    assert np.isnan(std["depth"]["rel"])
    assert std["depth"]["mae"] == 0


def test_no_trial_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 trials are none"):
        train_trials(recipe(), tmp_path / "out", 0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("left", ["state.safetensors", "learning/state.safetensors"])
def test_a_single_run_is_not_continued_as_trials(left: str, tmp_path: Path) -> None:
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).touch()
    with pytest.raises(InputError, match="holds a single run, not trials"):
        train_trials(recipe(), tmp_path, 2, resume=True)
