from __future__ import annotations

import json

import pytest

from slimtask.bench.bench import Candidate, bench_artifacts
from slimtask.bench.report.schema import Latency, Report
from slimtask.errors import InputError


def test_report_survives_its_file(report_dict, tmp_path):
    report = Report.parse(report_dict)
    report.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == report


def test_file_has_the_keys_that_scripts_read(report_dict, tmp_path):
    Report.parse(report_dict).save(tmp_path / "report.json")
    value = json.loads((tmp_path / "report.json").read_text())
    level, engine = value["levels"][2], value["engines"][0]
    assert {"name", "sparsity", "params", "flops", "metrics", "delta_m", "latency_ms", "certificate"} <= set(level)
    assert {"median", "p10", "p90", "n"} <= set(level["latency_ms"]["onnxruntime-cpu"])
    assert set(level["certificate"]) == {"max_rel_error", "holds"}
    assert set(engine) == {"backend", "path", "tasks", "bytes", "precision", "targets"}
    assert value["levels"][0]["metrics"]["segmentation"]["miou"] == 0.5


def test_the_fixed_keys_alone_are_a_report():
    level = {
        "name": "dense",
        "sparsity": 0.0,
        "params": 1,
        "flops": 1,
        "metrics": {},
        "delta_m": 0.0,
        "latency_ms": {"onnxruntime-cpu": {"median": 1.0, "p10": 0.9, "p90": 1.1, "n": 3}},
        "certificate": {"max_rel_error": 0.0, "holds": True},
    }
    report = Report.parse({"levels": [level], "engines": [], "environment": {}})
    assert report.backends == ("onnxruntime-cpu",)


def test_undefined_scores_become_null(report_dict, tmp_path):
    report_dict["levels"][1]["metrics"]["depth"]["abs_rel"] = float("nan")
    report = Report.parse(report_dict)
    assert report.levels[1].metrics["depth"]["abs_rel"] is None
    report.save(tmp_path / "report.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one["levels"][0].update(sparsity=1.5), r"levels\.0\.sparsity"),
        (lambda one: one.update(levles=[]), "levles"),
        (lambda one: one.update(levels=[]), "levels"),
        (lambda one: one["levels"][1]["latency_ms"]["pytorch-cpu"].update(median="fast"), r"latency_ms.*median"),
    ],
)
def test_wrong_reports_name_the_key(report_dict, change, message):
    change(report_dict)
    with pytest.raises(InputError, match=message):
        Report.parse(report_dict)


def test_latency_of_a_benchmark_carries_paths_and_speedup(save_convolution):
    dense, slim = save_convolution("a.onnx", 64), save_convolution("b.onnx", 4)
    bench = bench_artifacts(
        [
            Candidate(level="dense", artifact=dense),
            Candidate(level="90 %", artifact=slim),
            Candidate(level="dense", artifact=dense, path="depth"),
            Candidate(level="90 %", artifact=slim, path="depth"),
        ],
        threads=1,
        rounds=5,
    )
    latency = Latency.of(bench, "90 %")
    row = bench.row("90 %")
    assert (latency.median, latency.n, latency.speedup) == (row.measurement.median_ms, 5, row.speedup)
    assert list(latency.paths) == ["depth"]
    assert latency.verdict == row.verdict
    assert Latency.of(bench, "dense").speedup is None
