"""The chain of the demo, tiny: levels, certificates, bundle, report.json as scripts read it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from slimtask.bench.report.result import markdown
from slimtask.bench.report.schema import Report
from slimtask.bench.sweeping import check_levels, choose, sweep
from slimtask.errors import InputError
from slimtask.export.bundle import Bundle
from slimtask.export.verify import verify_bundle
from slimtask.tasks import TaskSpec
from slimtask.train.recipe import Recipe, parse_recipe


def recipe(**train: Any) -> Recipe:
    return parse_recipe(
        {
            "name": "tiny",
            "data": {
                "height": 32, "width": 48, "train": 16, "val": 6, "test": 6, "cache": True,
                "tasks": ["segmentation", "depth", "objects"],
            },
            "model": {"width": 0.125, "head_hidden": 8},
            "train": {"steps": 20, "batch": 4, "lr": 0.003, "eval_every": 10, **train},
            "sparsity": {"target": 0.6, "warmup": 0.2, "ramp": 0.4},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    out = tmp_path_factory.mktemp("sweep") / "out"
    report = sweep(recipe(), out, levels=(0.6,), backends=("onnxruntime-cpu",), align=1, rounds=5, command="test")
    return out, report


def test_report_json_has_the_keys_that_scripts_read(swept: tuple[Path, Report]) -> None:
    report = json.loads((swept[0] / "report.json").read_text())
    assert {"levels", "engines", "environment"} <= set(report)
    dense, level = report["levels"]
    assert (dense["name"], dense["sparsity"], dense["delta_m"]) == ("dense", 0, 0)
    assert 0.6 <= level["sparsity"] < 0.65
    assert 0 < level["group_sparsity"] < 1
    assert set(level["metrics"]) == {"segmentation", "depth", "objects"}
    for one in (dense, level):
        assert one["certificate"]["holds"] is True
        assert one["certificate"]["max_rel_error"] <= 1e-5
        assert {"median", "p10", "p90", "n"} <= set(one["latency_ms"]["onnxruntime-cpu"])
        assert set(one["latency_ms"]["onnxruntime-cpu"]["paths"]) == {"segmentation", "depth", "objects"}
    assert level["params"] < dense["params"]
    assert level["flops"] < dense["flops"]


def test_the_bundle_is_whole_and_that_of_the_level_chosen(swept: tuple[Path, Report]) -> None:
    out, report = swept
    assert verify_bundle(out / "bundle")
    level = {"dense": "dense", "60 %": "60"}[report.notes[0].split("level ")[1].split(",")[0]]
    assert Bundle.open(out / "bundle").manifest.data == Bundle.open(out / "levels" / level / "bundle").manifest.data
    assert len(list((out / "images").glob("*.png"))) == 4
    assert "<svg" in (out / "report.html").read_text()


def test_a_stopped_sweep_resumes_without_training_again(swept: tuple[Path, Report], monkeypatch: Any) -> None:
    out, report = swept
    monkeypatch.setattr("slimtask.architectures.FACTORIES", {})  # as in a new process
    monkeypatch.delitem(sys.modules, "slimtask.train.models")
    monkeypatch.delitem(sys.modules, "slimtask.train.models.net")
    monkeypatch.setattr("slimtask.train.run.train", lambda *a, **k: pytest.fail("trained again"))
    again = sweep(
        recipe(), out, levels=(0.6,), backends=("onnxruntime-cpu",), align=1, rounds=5, command="test", resume=True
    )
    assert [level.metrics for level in again.levels] == [level.metrics for level in report.levels]
    with pytest.raises(InputError, match="exists already"):
        sweep(recipe(), out, levels=(0.6,))


def test_the_level_is_chosen_on_validation_not_on_test() -> None:
    task = TaskSpec(name="d", kind="depth", channels=1)

    def timed(name: str, milliseconds: float, delta: float) -> dict[str, Any]:
        speedup = {"value": 4 / milliseconds, "low": 3.9 / milliseconds, "high": 4.1 / milliseconds}
        timing = {"median": milliseconds, "p10": milliseconds, "p90": milliseconds, "n": 9, "speedup": speedup}
        size = {"sparsity": 0.5, "params": 1, "flops": 1, "delta_m": delta}
        proof = {"max_rel_error": 0.0, "holds": True}
        return {"name": name, **size, "latency_ms": {"onnxruntime-cpu": timing}, "certificate": proof}

    levels = [timed("dense", 4, 0), timed("good", 2, -50), timed("lucky", 1, 0)]
    report = Report.parse({"levels": levels, "tasks": [task.model_dump()]})
    assert (
        choose(report, {name: {"d": {"abs_rel": e}} for name, e in (("dense", 0.2), ("good", 0.2), ("lucky", 0.3))})
        == "good"
    )
    assert choose(report, {name: {"d": {"abs_rel": 0.2}} for name in ("dense", "good", "lucky")}) == "lucky"


def test_the_committed_table_carries_every_level_and_the_command(swept: tuple[Path, Report]) -> None:
    text = markdown(swept[1])
    assert "`test`" in text
    assert all(f"| {level.name} |" in text for level in swept[1].levels)


@pytest.mark.parametrize("levels", [(), (0.5, 0.5), (1.0,), (-0.1,)])
def test_levels_must_be_distinct_fractions(levels: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="--levels takes distinct sparsities"):
        check_levels(recipe(), levels)
