"""What holds for every verb: Ctrl-C is one sentence, so is what the system refuses."""

from __future__ import annotations

import builtins
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from slimtask.cli.app import app

Run = Callable[..., int]
NOTHING, UNKNOWN = "slimtask: interrupted; nothing was written.\n", "slimtask: interrupted.\n"
WORDS = {
    "demo": (["--out", "new"], NOTHING),
    "train": (["recipe.yaml"], UNKNOWN),  # to a folder that the recipe names
    "relate": (["recipe.yaml", "--out", "new"], NOTHING),
    "compress": (["checkpoint", "--out", "new"], NOTHING),
    "costs": (["checkpoint"], UNKNOWN),
    "export": (["checkpoint", "--out", "new"], NOTHING),
    "run": (["bundle", "image.png", "--out", "there"], UNKNOWN),
    "bench": (["bundle"], NOTHING),
    "sweep": (["recipe.yaml"], UNKNOWN),
    "verify": (["bundle", "--json", "new.json"], NOTHING),
    "evaluate": (["bundle", "--json", "new.json"], NOTHING),
    "inspect": (["checkpoint", "--json", "empty.json"], UNKNOWN),
    "doctor": ([], NOTHING),
}


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ctrl-C comes when a verb first imports something."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "empty.json").touch()
    real = builtins.__import__

    def importing(name: str, *words: Any) -> Any:
        if words and words[0] is not None and str(words[0].get("__name__", "")).startswith("slimtask.cli."):
            raise KeyboardInterrupt
        return real(name, *words)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", importing)
        yield


@pytest.mark.parametrize("verb", WORDS)
def test_ctrl_c_in_any_verb_is_one_sentence(
    verb: str, slimtask: Run, interrupted: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words, sentence = WORDS[verb]
    assert slimtask(verb, *words) == 130
    assert capsys.readouterr() == ("", sentence)


def test_no_verb_is_left_out() -> None:
    assert {command.name for command in app.registered_commands} == set(WORDS)


def test_a_verb_that_says_more_says_it_alone(
    slimtask: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sweep(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("slimtask.train.recipe.load_recipe", lambda *_: None)
    monkeypatch.setattr("slimtask.bench.sweeping.sweep", sweep)
    assert slimtask("sweep", "recipe.yaml", "--out", tmp_path / "new") == 130
    said = "slimtask: interrupted; `slimtask sweep` with --resume and the same words continues.\n"
    assert capsys.readouterr().err == said


def test_what_a_library_makes_of_ctrl_c_is_ctrl_c(
    slimtask: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Importing NumPy may swallow it and end in a RecursionError."""

    def environment() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RecursionError from None

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("slimtask.bench.timing.environment.environment", environment)
    assert slimtask("doctor") == 130
    assert capsys.readouterr() == ("", NOTHING)
    assert signal.getsignal(signal.SIGINT) is before


def test_only_a_mistake_of_slimtask_itself_is_a_traceback(
    slimtask: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("slimtask.bench.timing.environment.environment", lambda: 1 / 0)
    assert slimtask("doctor") == 2
    assert "code of yours fails: ZeroDivisionError: division by zero (test_app.py, line " in capsys.readouterr().err
    monkeypatch.setattr("slimtask.bench.timing.environment.environment", partial(divmod, 1, 0))
    with pytest.raises(ZeroDivisionError):
        slimtask("doctor")


@pytest.mark.parametrize("words", [["export", "checkpoint", "--out"], ["doctor", "--json"]])
def test_a_path_inside_a_file_is_one_sentence_with_the_reason(
    words: list[str], slimtask: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert slimtask(*words, tmp_path / "file" / "new") == 2
    assert f"'{tmp_path / 'file'}' is a file, not a folder; give another path.\n" in capsys.readouterr().err
