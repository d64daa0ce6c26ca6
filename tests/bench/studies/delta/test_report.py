from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slimtask.bench.studies.delta import cpu
from slimtask.bench.studies.delta.__main__ import main
from slimtask.bench.studies.delta.compare import Place
from slimtask.bench.studies.delta.gpu import GPU_GOALS
from slimtask.bench.studies.delta.report import GOALS, Goal, markdown, result, write_plot
from slimtask.files import read_json


def one(**more: Any) -> dict[str, Any]:
    made = {
        "tasks": 4,
        "model": "ViT-B",
        "layer": "fc1",
        "tokens": 1024,
        "pattern": "out-channels",
        "density": 0.05,
        "rows": 0.0,
        "output": "compact",
        "ms": 10.0,
        "p10_ms": 9.0,
        "p90_ms": 11.0,
        "dense_ms": 30.0,
        "batched_ms": None,
        "speedup": 3.0,
        "speedup_low": 2.9,
        "speedup_high": 3.1,
        "speedup_over_batched": None,
        "flop_ratio": 3.3,
        "max_rel_error": 1e-7,
        "reference": "float64",
    }
    return made | more


ROWS = [
    one(),
    one(density=0.1, speedup=2.5),
    one(output="full", speedup=1.4),
    one(rows=0.1, speedup=2.0),
    one(layer="mlp", pattern="hidden-units", form="units", speedup=2.8, output="full"),
    one(layer="vit", pattern="hidden-units and heads", form="base-fed", speedup=2.2),
    one(
        layer="vit", pattern="hidden-units and heads", form="prefix, own-fed", rows=1.0, speedup=1.6, max_rel_error=0.1
    ),
]


def test_goals_are_reached_missed_or_not_measured() -> None:
    judged = [goal.judged(ROWS) for goal in GOALS]
    mlp, base_fed, own_fed, on_rows = judged
    assert (mlp["reached"], mlp["speedup"]) == (True, 2.8)
    assert (base_fed["reached"], base_fed["speedup"]) == (False, 2.2)
    assert (own_fed["reached"], own_fed["speedup"]) == (False, None)  # fast enough, but not exact
    assert on_rows["reached"] is None


def test_a_goal_against_the_batched_call_reads_that_ratio() -> None:
    goal = Goal(what="batched", of=lambda row: True, speedup=1.8, key="speedup_over_batched")
    assert goal.judged([one()])["reached"] is None
    assert goal.judged([one(speedup_over_batched=1.9, speedup=0.5)])["reached"] is True


def test_the_goals_of_a_gpu_take_the_warm_rows_of_our_forms() -> None:
    rows = [one(form="out-channels compact", l2="warm", speedup=2.1), one(form="wide", l2="warm", speedup=9.0)]
    rows.append(one(form="blocks-cuda", pattern="block", l2="cold", speedup=8.0))
    found = {goal["what"]: goal for goal in (goal.judged(rows) for goal in GPU_GOALS)}
    shared = found["structured or 64-block deltas of 5 %, 0% rows: T products in one graph"]
    assert (shared["reached"], shared["speedup"]) == (True, 2.1)
    assert found["whole block, 10 % rows"]["reached"] is None


def test_the_page_names_everything(tmp_path: Path) -> None:
    made = result(ROWS, "make delta", {"threads": 2}, ["ViT-L fc2 N=1024"], goals=GOALS)
    assert set(made) >= {"command", "versions", "machine", "rows", "goals", "left_out"}
    text = markdown(made, "delta.svg")
    assert "`make delta`" in text
    assert "![speed-up over T dense models](delta.svg)" in text
    assert "Not measured, for lack of time: ViT-L fc2 N=1024." in text
    assert "| ViT-B fc1 | 1024 | 4 | out-channels | 0.05 | 0.1 | compact |" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    widths = {line.count("|") for line in table}
    assert widths == {6, 15}


@pytest.mark.parametrize("rows", [ROWS, []])
def test_the_plot_shows_layers_and_law(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    write_plot(rows, tmp_path / "delta.svg")
    text = (tmp_path / "delta.svg").read_text()
    assert text.rstrip().endswith("</svg>")
    assert ("T / (1 + D (r + c))" in text) == bool(rows)
    assert ("base-fed" in text) == bool(rows)


def test_a_run_that_is_stopped_keeps_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def section(name: str) -> cpu.Section:
        def make(folder: Path) -> Any:
            if name == "third":
                raise KeyboardInterrupt
            return {}, []

        return cpu.Section(place=Place(model=name, layer="mlp", tokens=4), make=make, rounds=1)

    monkeypatch.setattr(cpu, "sections", lambda **_: iter([section(name) for name in ("first", "second", "third")]))
    monkeypatch.setattr(cpu, "compare", lambda place, *_, **__: [{"model": place.model}])
    monkeypatch.setattr("slimtask.bench.studies.delta.whole.summary", str)
    monkeypatch.setattr("slimtask.bench.studies.delta.__main__.GOALS", ())
    with pytest.raises(SystemExit, match="130"):
        main(["--threads", "1", "--json", str(tmp_path / "delta.json")])  # torch keeps the number in this process
    kept = read_json(tmp_path / "delta.partial.json", "the result")
    assert not (tmp_path / "delta.json").exists()
    assert [row["model"] for row in kept["rows"]] == ["first", "second"]
    assert kept["left_out"] == ["third mlp N=4"]
