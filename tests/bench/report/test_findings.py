from __future__ import annotations

import pytest

from slimtask.bench.report.findings import best_level, flop_ratio, headline, speedup, subline
from slimtask.bench.report.schema import Report


def test_the_best_level_is_the_fastest_accurate_one(report_dict):
    report = Report.parse(report_dict)
    best = best_level(report)
    assert best is report.levels[2]  # 90 % is faster but loses 8 %
    assert (
        headline(report)
        == "2.5x faster than the dense network, with 70\N{NO-BREAK SPACE}% of the trunk removed for 1.5 % of accuracy."
    )
    assert "10.00 ms down to 4.00 ms" in subline(report)
    assert "FLOP ratio is 3.33x" in subline(report)


def test_a_level_without_a_proof_is_never_the_best(report_dict):
    report_dict["levels"][2]["certificate"]["holds"] = False
    report = Report.parse(report_dict)
    assert best_level(report) is report.levels[1]


def test_a_level_whose_interval_reaches_one_is_never_the_best(report_dict):
    for level in report_dict["levels"][1:]:
        level["latency_ms"]["onnxruntime-cpu"]["speedup"] = {"value": 1.02, "low": 0.99, "high": 1.05}
    report = Report.parse(report_dict)
    assert best_level(report) is None
    assert headline(report).startswith("No level is both faster")
    assert "the fastest level, 90 %, takes 2.00 ms with delta_m -8.0 %" in subline(report)


def test_medians_stand_in_where_no_interval_was_measured(report_dict):
    report_dict["levels"][1]["latency_ms"]["onnxruntime-cpu"]["speedup"] = None
    report = Report.parse(report_dict)
    ratio = speedup(report, report.levels[1], "onnxruntime-cpu")
    assert ratio.value == ratio.low == ratio.high == pytest.approx(1.25)
    assert flop_ratio(report, report.levels[2]) == pytest.approx(1 / 0.3, rel=1e-3)


def test_a_busy_machine_is_said(report_dict):
    report_dict["levels"][2]["latency_ms"]["onnxruntime-cpu"]["steady"] = False
    assert "measure again" in subline(Report.parse(report_dict))


def test_reports_with_little_in_them_still_say_something(report_dict):
    dense_only = report_dict | {"levels": report_dict["levels"][:1]}
    assert "Only the dense network" in headline(Report.parse(dense_only))
    for level in report_dict["levels"]:
        level["latency_ms"] = {}
    assert "Nothing was timed" in headline(Report.parse(report_dict))
