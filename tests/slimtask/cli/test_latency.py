"""`compress --latency-ms` with whole blocks: printed, written, read back in another process, and exported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slimtask.bench.timing.measure import Conditions, Measurement
from slimtask.checkpoint import Architecture, Checkpoint
from slimtask.compress.rebuilding import rebuild
from slimtask.tasks import Preprocessing
from slimtask.train.models import MultiTaskNet

CONDITIONS = Conditions(
    backend="fake", backend_version="0", device="none", precision="fp32", threads=1, batch=1, shape=(3, 32, 32)
)
LAYER_MS = 1.0
FORWARD = """
import torch
import slimtask.train.models
from slimtask.checkpoint import Checkpoint
from slimtask.compress.rebuilding import rebuild
torch.set_num_threads(1)
model = rebuild(Checkpoint.load("small.safetensors"))
with torch.no_grad():
    torch.save(dict(model(torch.load("x.pt"))), "y.pt")
"""


@pytest.fixture
def saved(small_net: Callable[..., MultiTaskNet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MultiTaskNet:
    """A small dense checkpoint, and a clock by which every convolution takes a millisecond whatever its channels."""
    from slimtask.bench.layers import meter
    from slimtask.bench.layers import table as latency_table

    def convolutions(path: Path) -> int:
        import onnx

        return sum(node.op_type == "Conv" for node in onnx.load(str(path), load_external_data=False).graph.node)

    def timed(graphs: dict[str, Path], *, threads: int) -> dict[str, Measurement]:
        counts = {key: LAYER_MS * convolutions(path) for key, path in graphs.items()}
        return {key: Measurement(samples_ms=(ms,) * 5, conditions=CONDITIONS) for key, ms in counts.items()}

    monkeypatch.setattr(meter, "measure_graphs", timed)
    monkeypatch.setattr(latency_table, "time_layer", lambda *_, **__: LAYER_MS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = small_net()
    Checkpoint(
        weights=model.state_dict(),
        architecture=Architecture(name="multitask-net", arguments={"width": 0.25, "head_hidden": 16}),
        tasks=model.tasks,
        preprocessing=Preprocessing(height=32, width=32),
    ).save("net.safetensors")
    return model


def test_blocks_that_go_are_printed_written_and_read_back(
    slimtask: Callable[..., int], saved: MultiTaskNet, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compress", "net.safetensors", "--out", "small.safetensors", "--json", "small.json", "--align", "8"]
    dense = sum(isinstance(module, torch.nn.Conv2d) for module in saved.modules())
    assert slimtask(*words, "--latency-ms", f"{dense - 3.5}") == 0
    result = json.loads(Path("small.json").read_text())
    assert result["weighed_on"] == "noise"  # the checkpoint remembers no recipe, and none was named
    assert result["distance"] > 0
    blocks = result["blocks"]
    assert len(blocks) == 2  # of two layers each
    assert result["paths"][0]["measured_ms"] == dense - 4
    said = " ".join(capsys.readouterr().out.split())
    assert f"2 block(s) went whole: {', '.join(blocks)}" in said
    assert "was measured on noise, as there are no images: --calibration RECIPE names some" in said
    assert [edit["kind"] for edit in Checkpoint.load("small.safetensors").edits] == ["skip"]  # no channel went

    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.save(x, "x.pt")
    subprocess.run([sys.executable, "-c", FORWARD], check=True)
    again, here = torch.load("y.pt"), rebuild(Checkpoint.load("small.safetensors"))
    with torch.no_grad():
        for block in blocks:
            saved.get_submodule(block).forward = saved.get_submodule(block).shortcut.forward
        truth, outputs = saved(x), here(x)
    for task, expected in truth.items():
        assert torch.equal(again[task], outputs[task])
        torch.testing.assert_close(outputs[task], expected, rtol=1e-5, atol=1e-6)

    assert slimtask("inspect", "small.safetensors") == 0
    assert f"edit 1: skip {', '.join(blocks)}" in " ".join(capsys.readouterr().out.split())
    assert slimtask("export", "small.safetensors", "--out", "bundle", "--paths", "fused") == 0


def test_without_blocks_a_time_that_no_channel_changes_is_out_of_reach(
    slimtask: Callable[..., int], saved: MultiTaskNet, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compress", "net.safetensors", "--out", "small.safetensors", "--align", "8"]
    assert slimtask(*words, "--latency-ms", "20", "--no-blocks") == 2
    assert "smallest reachable" in capsys.readouterr().err
    for wrong in (["--flops", "0.5"], []):
        assert slimtask(*words, *wrong, "--no-blocks") == 2
        assert "only a latency budget removes whole blocks" in capsys.readouterr().err
    for floor in (["--flops", "0.5", "--floor", "0.1"], ["--latency-ms", "20", "--floor", "nan"]):
        assert slimtask(*words, *floor) == 2
        assert "--floor is the least share, 0 to 1" in capsys.readouterr().err
    assert not Path("small.safetensors").exists()
