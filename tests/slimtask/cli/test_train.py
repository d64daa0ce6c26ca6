"""`slimtask train`: refusals that say how to go on, and nothing before them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

TINY = (
    "name: tiny\n"
    "data: {height: 32, width: 32, train: 4, val: 2, test: 2, cache: true, tasks: [depth]}\n"
    "model: {width: 0.125, head_hidden: 8}\n"
    "train: {steps: 1, batch: 2}\n"
)
Refusal = Callable[..., str]


@pytest.fixture
def refusal(slimtask: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Return a function that trains with some words and returns what was printed; it must be refused."""
    (tmp_path / "tiny.yaml").write_text(TINY)

    def refuse(*words: object) -> str:
        assert slimtask("train", tmp_path / "tiny.yaml", *words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("slimtask: ")
        assert err.count("\n") == 1
        return err

    return refuse


def test_a_run_that_is_there_may_be_resumed(refusal: Refusal, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    assert "exists already; choose another name or remove it" in refusal("--out", run)  # nothing to resume
    (run / "recipe.yaml").touch()
    for words in ((), ("--trials", 2)):
        message = refusal("--out", run, *words)
        assert f"'{run}' exists already; continue it with --resume, or choose another --out" in message


def test_trials_are_resumed_as_trials(
    slimtask: Callable[..., int], refusal: Refusal, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--out", tmp_path / "run", "--resume")
    assert slimtask("train", tmp_path / "tiny.yaml", *words[:2], "--trials", 2) == 0
    capsys.readouterr()
    before = sorted(file.name for file in (tmp_path / "run").iterdir())
    assert f"'{tmp_path / 'run'}' holds trials, not a single run; resume them with --trials" in refusal(*words)
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == before
    assert slimtask("train", tmp_path / "tiny.yaml", *words, "--trials", 2) == 0
    trial = tmp_path / "run" / "trial0"  # a single run, which may be resumed as one
    assert slimtask("train", trial / "recipe.yaml", "--out", trial, "--resume") == 0


def test_bad_data_are_refused_without_a_progress_line(refusal: Refusal, tmp_path: Path) -> None:
    words = ("--set", "data.name=camvid", "--set", f"data.root={tmp_path / 'gone'}", "--out", tmp_path / "run")
    assert "does not exist" in refusal(*words)
