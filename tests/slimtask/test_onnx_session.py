"""A session reaches no file, prints no line, ends in time and fails in one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from slimtask.errors import InputError
from slimtask.onnx_session import OnnxSession, TooLong, open_session
from tests.slimtask import onnx_samples as samples

X = np.ones(4, np.float32)


@pytest.mark.parametrize("trips", [10**12, None])
def test_a_loop_without_an_end_is_ended(trips: int | None) -> None:
    session = OnnxSession(samples.loop(trips).SerializeToString(), {}, what="it", seconds=0.5)
    with pytest.raises(TooLong, match=r"it repeats itself .* for more than 0\.5 s"):
        session.run({"x": X})


def test_a_loop_that_ends_runs() -> None:
    session = OnnxSession(samples.loop(3).SerializeToString(), {}, what="it")
    np.testing.assert_array_equal(session.run({"x": X})["y"], X + 3 * samples.VALUES)


@pytest.mark.parametrize("place", ["constant", "in_branch", "in_function"])
def test_only_initialisers_lie_in_files(place: str) -> None:
    graph = samples.PLACES[place](samples.tensor("w.bin")).SerializeToString()
    with pytest.raises(InputError, match="only an initialiser can lie in a file"):
        OnnxSession(graph, {"w.bin": samples.VALUES.tobytes()}, what="it")


def test_what_does_not_run_is_one_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    session = OnnxSession(
        samples.model(samples.constant(samples.tensor()).graph.node, dims=["n"]).SerializeToString(), {}, what="it"
    )
    for feed in ({"x": np.ones(3, np.float32)}, {"x": np.ones(4)}, {}, {"z": X}):
        with pytest.raises(InputError, match="ONNX Runtime cannot run it"):
            session.run(feed)
    with pytest.raises(InputError, match="ONNX Runtime cannot load it"):
        OnnxSession(
            samples.model([samples.helper.make_node("Nothing", ["x"], ["y"])]).SerializeToString(), {}, what="it"
        )
    assert capfd.readouterr() == ("", "")


def test_neither_torch_nor_onnx_is_needed() -> None:
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None; import numpy as np; "
        "from slimtask.export.runtime.runner import Runner; from slimtask.onnx_session import OnnxSession; "
        f"s = OnnxSession({samples.constant(samples.tensor()).SerializeToString()!r}, {{}}, what='it'); "
        "print(s.run({'x': np.ones(4, np.float32)})['y'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[1. 2. 3. 4.]\n", "")


def test_on_a_gpu_float32_is_float32_in_every_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that is timed is opened from a file, one that is deployed from bytes: neither may round to TF32."""
    asked = []
    real = onnxruntime.InferenceSession

    def spy(graph: bytes, options: Any, providers: list[Any]) -> Any:
        asked.append(providers)
        return real(graph, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    graph = samples.constant(samples.tensor()).SerializeToString()
    (tmp_path / "g.onnx").write_bytes(graph)
    OnnxSession(graph, {}, what="it", backend="onnxruntime-cuda")
    open_session(tmp_path / "g.onnx", backend="onnxruntime-cuda")
    assert asked == [[("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]] * 2
