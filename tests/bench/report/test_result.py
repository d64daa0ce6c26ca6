"""A report as a committed table: every figure of every level in its column, and a dash for what there is not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from slimtask.bench.report.result import main, markdown
from slimtask.bench.report.schema import Report


def test_every_level_is_a_row_with_its_figures(report_dict: dict) -> None:
    for level in report_dict["levels"]:
        level["name"] = level["name"].replace("|", "")
    text = markdown(Report.parse(report_dict))
    assert text.startswith("# A <report>\n\n`slimtask demo --set a=<b> && true` (2026-11-20)")
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    heads, _, *levels = rows
    assert len(levels) == 4
    assert {len(row) for row in rows} == {len(heads)}
    thirty = dict(zip(heads, levels[1], strict=True))
    assert thirty["trunk removed"] == "30.0%"
    assert thirty["delta_m %"] == "+0.40"
    assert thirty["depth abs_rel ↓"] == "0.2000"
    assert thirty["onnxruntime-cpu ms (p10-p90)"] == "8.00 (7.76-8.40)"
    assert thirty["parameters"] == "2,101,000"
    dense = dict(zip(heads, levels[0], strict=True))
    assert (dense["onnxruntime-cpu speed-up"], dense["certificate"]) == ("1", "-")


def test_the_command_writes_both_files(report_dict: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report.parse(report_dict)
    report.save(tmp_path / "r.json")
    monkeypatch.setattr(sys, "argv", ["result", str(tmp_path / "r.json"), "--out", str(tmp_path / "out")])
    main()
    assert Report.load(tmp_path / "out.json") == report
    assert (tmp_path / "out.md").read_text() == markdown(report)
