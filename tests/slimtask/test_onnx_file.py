"""An ONNX file is opened with weights of its own folder, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from slimtask.errors import InputError
from slimtask.onnx_file import open_onnx
from slimtask.onnx_session import open_session
from tests.slimtask import onnx_samples as samples


def saved(path: Path, model: onnx.ModelProto) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("place", samples.PLACES)
def test_weights_beside_the_graph_are_read_wherever_they_belong(tmp_path: Path, place: str) -> None:
    path = saved(tmp_path / "in" / "g.onnx", samples.PLACES[place](samples.tensor("w/w.bin", offset="64")))
    (path.parent / "w").mkdir()
    (path.parent / "w" / "w.bin").write_bytes(b"\0" * 64 + samples.VALUES.tobytes())
    os.link(path.parent / "w" / "w.bin", tmp_path / "another name")
    open_onnx(path).check()
    found = open_session(path).run({"x": np.ones(4, np.float32)})["y"]
    np.testing.assert_array_equal(found, samples.VALUES + 1)
    (tmp_path / "link").symlink_to(path.parent)
    open_session(tmp_path / "link" / "g.onnx")


@pytest.mark.parametrize("place", samples.PLACES)
@pytest.mark.parametrize("open_", [open_onnx, open_session])
def test_nothing_outside_the_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, open_) -> None:
    secret = tmp_path / "w.bin"
    secret.write_bytes(samples.VALUES.tobytes())
    monkeypatch.chdir(tmp_path)  # it lies in the working directory too
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(secret)
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "in" / "pipe")
    for location, words in {
        "w.bin": "there is no file",
        "../w.bin": "outside of the folder",
        str(secret): "outside of the folder",
        "up/../w.bin": "outside of the folder",
        "link": "a link that leads outside",
        "up/w.bin": "a link that leads outside",
        "pipe": "a pipe or device",
        ".": "a folder",
        "w\0": "outside of the folder",
        "a" * 5000: "there is no file|cannot be read",
    }.items():
        path = saved(tmp_path / "in" / "g.onnx", samples.PLACES[place](samples.tensor(location)))
        with pytest.raises(InputError, match=words):
            open_(path)


def test_the_checker_sees_small_weights_and_no_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "g.onnx", samples.initialiser(samples.tensor("w.bin")))
    (tmp_path / "w.bin").write_bytes(samples.VALUES.tobytes())
    file = open_onnx(path)
    (tmp_path / "w.bin").unlink()
    file.check()
    np.testing.assert_array_equal(file.array(file.model.graph.initializer[0]), samples.VALUES)
    bad = samples.initialiser(samples.tensor())
    bad.graph.node[0].op_type = "Conv"
    with pytest.raises(InputError, match=r"'.*g\.onnx' is not valid ONNX"):
        open_onnx(saved(path, bad)).check()
