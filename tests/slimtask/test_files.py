"""Writes are whole or absent."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import tempfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from slimtask.errors import InputError
from slimtask.files import (
    atomic_directory,
    atomic_file,
    check_regular,
    file_in_the_way,
    make_folder,
    new_files,
    read_bytes,
    read_json,
    read_text,
    read_yaml,
    refuse_existing,
    refuse_unwritable,
    sha256,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_json(target, {"x": 1})
    with pytest.raises(OSError, match="No space"), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert read_json(target, "file") == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_leaves_nothing_and_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "own").mkdir()
    for file in (tmp_path / "a" / "b" / "file", tmp_path / "own" / "file"):
        with pytest.raises(OSError, match="No space left") as caught:
            write_json(file, 1)
        assert caught.value.filename == str(file)
    assert list(tmp_path.rglob("*")) == [tmp_path / "own"]


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    write_json(tmp_path / "file", 1)
    monkeypatch.setattr(os, "fsync", interrupted)
    for file in (tmp_path / "file", tmp_path / "new" / "file"):
        with pytest.raises(KeyboardInterrupt):
            write_json(file, 2)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert read_json(tmp_path / "file", "file") == 1


def test_a_failed_directory_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "out") as temporary:
        (temporary / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(InputError, match="exists already"), atomic_directory(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "mine").read_text() == "x"


def test_an_output_inside_a_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file" / "out", tmp_path / "file" / "deeper" / "out"):
        with pytest.raises(InputError, match=f"as '{tmp_path / 'file'}' is a file, not a folder"):
            refuse_existing(out)
    refuse_existing(tmp_path / "new" / "out")
    assert file_in_the_way(tmp_path / "new") is None
    assert (tmp_path / "file").read_text() == "mine"


def test_a_finished_directory_is_whole(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "out") as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "a").write_text("x")
    assert (tmp_path / "out" / "sub" / "a").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_of_two_writers_of_one_output_the_second_is_told(tmp_path: Path) -> None:
    """Whoever is done first has it; nothing of the other's is left."""
    with pytest.raises(InputError, match="written by another run meanwhile"), atomic_directory(tmp_path / "out") as one:
        (one / "file").write_text("second")
        with atomic_directory(tmp_path / "out") as other:
            (other / "file").write_text("first")
    assert (tmp_path / "out" / "file").read_text() == "first"
    with pytest.raises(InputError, match="written by another run meanwhile"), new_files(tmp_path / "net") as one:
        one.write_text("second")
        with new_files(tmp_path / "net") as other:
            other.write_text("first")
    assert (tmp_path / "net").read_text() == "first"
    assert {path.name for path in tmp_path.iterdir()} == {"out", "net"}


def test_of_two_that_make_a_new_folder_the_second_is_told(tmp_path: Path) -> None:
    make_folder(tmp_path / "runs" / "one", new=True)
    with pytest.raises(InputError, match="written by another run meanwhile"):
        make_folder(tmp_path / "runs" / "one", new=True)
    make_folder(tmp_path / "runs" / "one", new=False)


def test_new_files_come_all_or_not_at_all(tmp_path: Path) -> None:
    with new_files(tmp_path / "deeper" / "a.onnx") as place:
        place.write_text("graph")
        place.with_name("a.onnx.data").write_text("weights")
    assert {path.name for path in (tmp_path / "deeper").iterdir()} == {"a.onnx", "a.onnx.data"}
    (tmp_path / "b.onnx.data").write_text("mine")
    with pytest.raises(InputError, match=r"b\.onnx\.data"), new_files(tmp_path / "b.onnx") as place:
        place.with_name("b.onnx.before").write_text("x")
        place.write_text("graph")
        place.with_name("b.onnx.data").write_text("weights")
    assert {path.name for path in tmp_path.iterdir()} == {"deeper", "b.onnx.data"}
    assert (tmp_path / "b.onnx.data").read_text() == "mine"


def test_new_files_without_hard_links_are_as_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", link)
    with new_files(tmp_path / "a") as place:
        place.write_text("first")
    with pytest.raises(InputError, match="meanwhile"), new_files(tmp_path / "b") as place:
        place.write_text("second")
        (tmp_path / "b").write_text("mine")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "first", "b": "mine"}


def test_whether_something_can_be_written_is_told_without_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_unwritable(tmp_path / "new" / "deeper" / "x")

    def full(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(InputError, match="as nothing can in"):
        refuse_unwritable(tmp_path / "new" / "x")
    assert list(tmp_path.iterdir()) == []


def test_nan_never_reaches_a_json_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_damaged_json_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"x": 1,\n oops}')
    with pytest.raises(InputError, match=r"manifest '.*a\.json' is not valid JSON \(line 2"):
        read_json(tmp_path / "a.json", "manifest")


def test_sha256_is_that_of_hashlib(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"slim" * 100_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"slim" * 100_000).hexdigest()


def test_what_the_system_refuses_a_library_names_the_file(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: safetensors tells both by an error that is no OSError."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught, atomic_file(tmp_path / "a.st") as temporary:
            save_file({"x": np.zeros(10_000)}, temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(tmp_path / "a.st")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("read", [read_json, read_text, read_bytes, read_yaml, check_regular])
def test_only_regular_files_of_sane_size_are_read(read, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**43)
    said = {
        "pipe": "a pipe or device", "link": "a pipe or device", ".": "a folder", "huge": "more than the", "no": "exist",
        "a\0b": "cannot be read", "loop": "cannot be read", "x" * 300: "cannot be read",
        "/dev/zero": "a pipe or device",
    }  # fmt: skip
    for name, words in said.items():
        with pytest.raises(InputError, match=rf"the recipe '.*{words}"):
            read(tmp_path / name, "the recipe")


def test_text_is_utf8(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"cannot be read .*; give a readable text file"):
        read_json(tmp_path / "a", "the recipe")
    name = os.fsdecode(os.fsencode(tmp_path / "a") + b"\xff")
    Path(name).write_bytes(b"oops")
    with pytest.raises(InputError, match=r"'.*a\\udcff' is not valid JSON"):
        read_json(name, "the recipe")
