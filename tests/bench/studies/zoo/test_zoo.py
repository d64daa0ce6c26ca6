"""The zoo: its subjects, its rows, and one small model through every step as the command runs it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from slimtask.bench.studies.harness import run_module
from slimtask.bench.studies.zoo import __main__ as zoo
from slimtask.bench.studies.zoo.memory import PeakMemory
from slimtask.bench.studies.zoo.models import convolutional_names, dense, example_of, fresh, model_names, randomise_
from slimtask.bench.studies.zoo.onnx_check import largest_rel_error, onnx_rel_error
from slimtask.bench.studies.zoo.steps import Row, exact, prune, reload
from slimtask.errors import CheckFailed, InputError

SMALL = "squeezenet1_1"


def test_the_zoo_is_every_float_model_but_the_detectors() -> None:
    names = model_names()
    assert len(names) == 97
    assert len(convolutional_names()) >= 40
    assert {"raft_small", "swin3d_t", "lraspp_mobilenet_v3_large", SMALL} <= set(names)
    assert not {"fasterrcnn_resnet50_fpn", "quantized_resnet18", "ssd300_vgg16"} & set(names)


def test_inputs_have_the_sizes_that_the_models_take() -> None:
    assert example_of("inception_v3").shape[-1] == 299
    assert example_of("swin_v2_t").shape[-1] == 256
    assert example_of("r3d_18").shape == (1, 3, 16, 112, 112)
    assert len(example_of("raft_small")) == 2


def test_randomised_weights_leave_nothing_trivial_and_repeat() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    nn.init.zeros_(net[3].weight)
    randomise_(net, seed=3)
    assert bool((net[1].running_mean != 0).all())
    assert bool((net[1].bias != 0).all())
    assert bool((net[3].weight != 0).all())
    one, two = dense(SMALL), dense(SMALL)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(next(dense(SMALL, seed=1).parameters()), next(one.parameters()))
    assert not fresh(SMALL).training


def test_one_model_through_every_step(tmp_path: Path) -> None:
    prune(SMALL, tmp_path)
    reload(SMALL, tmp_path)
    row = json.loads((tmp_path / "row.json").read_text())
    assert row["status"] == "pass"
    assert row["params_after"] < 0.5 * row["params_before"]
    assert row["certificate_max_rel_error"] <= 1e-5
    assert row["reloaded_bit_equal"] is True
    assert row["onnx_rel_error"] <= 1e-4
    assert row["seconds"] > 0
    assert row["sizes"] == [[224, 224], [168, 168]]


def test_other_weights_in_the_file_are_a_fail(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    prune(SMALL, tmp_path)
    outputs = load_file(tmp_path / "outputs.safetensors")
    save_file({name: tensor + 1e-6 for name, tensor in outputs.items()}, tmp_path / "outputs.safetensors")
    with pytest.raises(SystemExit):
        reload(SMALL, tmp_path)
    row = json.loads((tmp_path / "row.json").read_text())
    assert row["status"] == "fail"
    assert row["reloaded_bit_equal"] is False


def test_dead_channels_of_every_kind_go_exactly(tmp_path: Path) -> None:
    exact(SMALL, tmp_path)
    row = json.loads((tmp_path / "row.json").read_text())
    assert row["status"] == "pass"
    assert row["certificate_max_rel_error"] <= 1e-5
    for kind in row["killed"].values():
        assert kind["channels"] - kind["groups"] <= kind["removed"] <= kind["channels"]


@pytest.mark.parametrize(
    ("error", "status"), [(InputError("no"), "refused"), (CheckFailed("no"), "fail"), (ValueError("no"), "fail")]
)
def test_a_step_that_ends_early_leaves_its_verdict(error: Exception, status: str, tmp_path: Path) -> None:
    row = Row(tmp_path / "row.json")
    with pytest.raises((SystemExit, ValueError)), row.part("a step"):
        raise error
    saved = json.loads((tmp_path / "row.json").read_text())
    assert saved["status"] == status
    assert saved["reason"].startswith("a step: ")


def test_a_process_that_dies_or_hangs_is_named(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert run_module("json.tool", ["--help"], log, 60.0) == ""
    assert run_module("no_such_module", [], log, 60.0).startswith("exit status 1: ")
    assert run_module("timeit", ["-n", "1", "import os; os.kill(os.getpid(), 9)"], log, 60.0).startswith(
        f"killed by signal {int(signal.SIGKILL)}"
    )
    assert "longer than" in run_module("timeit", ["-n", "1", "-r", "1", "import time; time.sleep(9)"], log, 0.5)


def test_a_crashed_step_is_a_failed_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(module: str, arguments: list[str], log: Path, timeout_seconds: float) -> str:
        Path(arguments[2], "row.json").write_text('{"part": "certificate", "params_before": 7}')
        return "killed by signal 9"

    monkeypatch.setattr(zoo, "run_module", crash)
    row = zoo.run_model(SMALL, exact=False, timeout_seconds=1.0)
    assert row["status"] == "fail"
    assert row["reason"] == "certificate: killed by signal 9"
    assert row["params_before"] == 7


def test_the_command_writes_every_row_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def run(name: str, **options: Any) -> dict[str, Any]:
        asked.append(name)
        return {"name": name, "status": "pass", "reason": "", "seconds": len(asked) / 2, "peak_mb": 3.0}

    monkeypatch.setattr(zoo, "run_model", run)
    out = tmp_path / "zoo.json"
    assert zoo.main(["--models", "vit_l_16", SMALL, "--json", str(out)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_text())
    assert [row["name"] for row in printed["models"]] == ["vit_l_16", SMALL]
    assert asked == [SMALL, "vit_l_16"]  # the big one comes last, alone
    assert printed["summary"]["median_seconds"] == 0.75
    assert f"| {SMALL} | pass |" in out.with_suffix(".md").read_text()
    assert zoo.main(["--models", SMALL, "alexnet", "--json", str(out), "--resume"]) == 0
    assert asked == [SMALL, "vit_l_16", "alexnet"]
    with pytest.raises(InputError, match="did you mean 'alexnet'"):
        zoo.main(["--models", "alexnett", "--json", str(out)])


def test_peak_memory_sees_what_is_held_for_a_moment() -> None:
    """Memory of a mapping of its own: what an allocator hands out may be pages that the process has already."""
    import mmap
    import time

    chunk = bytes(range(256)) * 4000
    with PeakMemory() as memory, mmap.mmap(-1, 64 * len(chunk)) as held:
        for _ in range(64):
            held.write(chunk)
        time.sleep(0.2)
    assert 50e6 < memory.peak_bytes < 200e6


@pytest.mark.parametrize("largest", [300_000_000, 10])
def test_onnx_runtime_agrees_and_another_network_does_not(largest: int, tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
            return {"b": self.conv(x), "a": (self.conv(y).relu(), None)}

    net, inputs = Two().eval(), (torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8))
    assert onnx_rel_error(net, inputs, tmp_path, largest=largest) < 1e-5
    assert len(list(tmp_path.iterdir())) == (1 if largest > 1000 else 2)  # weights beside the graph, or in it
    x = torch.tensor([2.0, -4.0])
    assert largest_rel_error({"o": x}, {"o": x + 1}) == 0.25
    assert largest_rel_error({"o": x}, {"o": x[:1]}) == float("inf")
    assert largest_rel_error({"o": x}, {"o": x * float("nan")}) == float("inf")
