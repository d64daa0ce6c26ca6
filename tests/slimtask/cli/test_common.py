"""Progress bars and consoles: what never got to report leaves no line behind, on a terminal as in a file."""

from __future__ import annotations

import io
import os

import pytest

from slimtask.cli.common import Patient, progress_bar, stage_bars
from slimtask.errors import InputError


def test_a_refusal_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError), progress_bar("train tiny"):
        raise InputError("refused")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_that_something_goes_on_and_clears_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # to Rich this is a terminal then
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(InputError), progress_bar("train tiny"):
        raise InputError("refused")
    printed = capsys.readouterr().err
    assert "train tiny" in printed
    assert "None" not in printed
    assert "tiny" not in printed.rpartition("\x1b[2K")[2]  # what was last written to the line: nothing
    assert "\n" not in printed


def test_bars_that_reported_stay(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError), stage_bars() as stage:
        stage("silent")
        report = stage("loud")
        report(3, 9, "loss 1")
        raise InputError("refused midway")
    printed = capsys.readouterr().err
    assert "loud" in printed
    assert "3/9" in printed
    assert "silent" not in printed


class _Left(io.StringIO):
    """A stream whose reader has gone."""

    def flush(self) -> None:
        raise BrokenPipeError


def test_a_reader_who_leaves_silences_the_console_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Patient(file=_Left())
    monkeypatch.setattr(os, "dup2", lambda *_: None)  # the streams of the test run stay as they are
    console.print("first")
    assert console.quiet
    console.print("second")
