"""Packages that are missing: `doctor` runs without any of them, and every verb names the one that it needs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from slimtask.cli.pieces import PIECES, missing_piece

Run = Callable[..., int]


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.module)
def test_a_missing_package_is_a_sentence_with_its_purpose(
    piece: object, slimtask: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def importing() -> None:
        raise ModuleNotFoundError(f"No module named '{piece.module}'", name=f"{piece.module}.inner")

    monkeypatch.setattr("slimtask.cli.app.raised_in", lambda error: None)  # this test is no user's code
    monkeypatch.setattr("slimtask.bench.timing.environment.environment", importing)
    assert slimtask("doctor") == 2
    said = capsys.readouterr().err
    assert piece.purpose in said
    assert piece.how in said


def test_a_package_that_cannot_be_loaded_says_why() -> None:
    told = missing_piece(ImportError("libcudart.so.12: cannot open shared object file\nmore", name="torch"))
    assert told is not None
    assert "libcudart.so.12: cannot open shared object file)" in told
    assert missing_piece(ImportError("cannot import name 'x'", name="slimtask.files")) is None
    assert missing_piece(ImportError("no name")) is None
    unknown = missing_piece(ModuleNotFoundError("No module named 'cow'", name="cow"))
    assert unknown is not None
    assert "'cow'" in unknown
