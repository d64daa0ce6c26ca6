"""Files are whole or absent, and what the system refuses is one sentence with the path."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from slimtask.kernels.atomic import refusal, write_whole


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_folders_are_made_and_only_the_file_is_left(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b" / "file", b"content")
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [tmp_path / "a" / "b" / "file"]
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"content"


def test_a_full_disk_leaves_nothing_and_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "own").mkdir()
    for file in (tmp_path / "a" / "b" / "file", tmp_path / "own" / "file"):
        with pytest.raises(OSError, match="No space left") as caught:
            write_whole(file, b"content")
        assert refusal(caught.value) == f"the disk is full at '{file}'; make room and run the command again."
    assert list(tmp_path.rglob("*")) == [tmp_path / "own"]


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    write_whole(tmp_path / "file", b"before")
    monkeypatch.setattr(os, "fsync", interrupted)
    for file in (tmp_path / "file", tmp_path / "new" / "file"):
        with pytest.raises(KeyboardInterrupt):
            write_whole(file, b"after")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"before"


def test_other_refusals_name_the_path_too(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OSError, match="taken") as caught:
        write_whole(tmp_path / "taken" / "deeper" / "file", b"content")
    assert str(tmp_path / "taken" / "deeper" / "file") in refusal(caught.value)
    assert refusal(NotADirectoryError("a sentence")) == "a sentence"
