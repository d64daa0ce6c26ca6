from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from slimtask.bench.report import plots
from slimtask.bench.report.schema import Report

NAMESPACE = "{http://www.w3.org/2000/svg}"


def level(name: str, sparsity: float, median: float, delta_m: float | None, *, timed: bool = True) -> dict:
    return {
        "name": name,
        "sparsity": sparsity,
        "params": 100,
        "flops": round(1e6 * (1 - sparsity)),
        "delta_m": delta_m,
        "latency_ms": {"onnxruntime-cpu": {"median": median, "p10": median, "p90": median, "n": 5}} if timed else {},
        "layers": [{"name": "stem $1 <a>", "before": 8, "after": round(8 * (1 - sparsity))}],
    }


@pytest.fixture
def report() -> Report:
    levels = [level("dense", 0.0, 8.0, None), level("half", 0.5, 5.0, 1.0), level("all", 1.0, 2.0, -2.0)]
    history = {"half": [{"epoch": 0, "group_sparsity": 0.0}, {"epoch": 1, "group_sparsity": 0.4}]}
    return Report.parse({"levels": levels, "history": history})


def texts(svg: str) -> list[str]:
    return ["".join(one.itertext()).strip() for one in ET.fromstring(svg).iter(f"{NAMESPACE}text")]


def test_accuracy_chart_labels_points_with_sparsity_and_marks_dense(report):
    shown = texts(plots.accuracy_against_latency(report))
    assert {"dense", "50\N{NO-BREAK SPACE}%", "100\N{NO-BREAK SPACE}%", "delta_m, % of dense"} <= set(shown)


def test_latency_chart_has_the_measured_values_and_the_flop_line(report):
    shown = texts(plots.latency_against_sparsity(report))
    assert {"8.0", "5.0", "2.0", "measured", "if time followed FLOPs"} <= set(shown)


def test_layer_chart_has_one_row_per_compressed_level_and_plain_names(report):
    shown = texts(plots.channels_kept(report))
    assert "half: 50\N{NO-BREAK SPACE}% of the channels kept" in shown
    assert "stem $1 <a>" in shown
    assert "0" in shown  # the emptied layer says so


def test_history_chart_names_its_axis_by_what_was_logged(report):
    shown = texts(plots.training_history(report))
    assert {"epoch", "group sparsity", "half"} <= set(shown)


@pytest.mark.parametrize(
    "chart",
    [plots.accuracy_against_latency, plots.latency_against_sparsity, plots.channels_kept, plots.training_history],
)
def test_charts_follow_the_page_colours_and_repeat_exactly(report, chart):
    svg = chart(report)
    assert "var(--slim)" in svg
    for placeholder in plots._VARIABLES:
        assert placeholder not in svg
    assert "<metadata" not in svg
    assert svg == chart(report)


def test_charts_without_data_are_empty():
    bare = Report.parse({"levels": [level("dense", 0.0, 8.0, 0.0, timed=False) | {"layers": []}]})
    assert plots.accuracy_against_latency(bare) == ""
    assert plots.latency_against_sparsity(bare) == ""
    assert plots.channels_kept(bare) == ""
    assert plots.training_history(bare) == ""
