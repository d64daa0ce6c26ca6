"""The comparison of the methods: the plan is whole, rows are kept and not made twice, delta_m is the definition's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slimtask.bench import methods
from slimtask.bench.methods import Job, Study, _resolved, run_job, run_study
from slimtask.bench.methods_plan import DENSE, HALF, LEVELS, SINGLE, Entry, delta_entries, entries
from slimtask.bench.methods_report import scored, write_report
from slimtask.tasks import TaskSpec
from slimtask.train.recipe import load_recipe

TASKS = (TaskSpec(name="depth", kind="depth", channels=1), TaskSpec(name="edges", kind="edges", channels=1))
RECIPE = """\
data: {name: scenes, height: 32, width: 32, train: 8, val: 4, test: 4, tasks: [depth, edges], cache: true}
model: {width: 0.125, head_hidden: 8}
train: {steps: 4, batch: 4, eval_every: 2}
"""


def recipe(folder: Path) -> Path:
    (folder / "base.yaml").write_text(RECIPE)
    return folder / "base.yaml"


def row(method: str, seed: int, depth: float, edges: float, sparsity: float = 0.0) -> dict[str, Any]:
    metrics = {"depth": {"abs_rel": depth}, "edges": {"f1": edges}}
    metrics = {method.removeprefix(f"{SINGLE}: "): metrics.get(method.removeprefix(f"{SINGLE}: "), {})} | {
        name: value for name, value in metrics.items() if SINGLE not in method
    }
    key = f"scenes/seed{seed}/{method}-{sparsity}"
    return {"key": key, "method": method, "dataset": "scenes", "sparsity": sparsity, "seed": seed,
            "metrics": metrics, "counts": {}, "digest": "d"}  # fmt: skip


def test_the_plan_has_every_method_at_every_level_and_valid_recipes(tmp_path: Path) -> None:
    runs = entries(["depth", "edges"], 400)
    assert len({run.name for run in runs}) == len(runs) == 4 + 2 + 9 * len(LEVELS) + 2
    by_name = {run.method: run for run in runs}
    for run in runs:
        assert not run.after or runs.index(by_name[run.after]) < runs.index(run)
        settings = [one.replace("$SKIP", "0.25") for one in run.settings]
        if run.after == HALF:
            settings.append("train.init=x.safetensors")
        load_recipe(recipe(tmp_path), settings)


def test_the_plan_of_deltas_has_valid_recipes_from_one_base(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    path.write_text(
        RECIPE.replace("model: {", "model: {trunk: vit_tiny, ") + "delta: {base: depth, gates: {density: 0.1}}\n"
    )
    runs = delta_entries(["depth", "edges"], "depth", 0.1)
    assert len({run.name for run in runs}) == len(runs) == 3 + 10
    for run in runs:
        loaded = load_recipe(path, run.settings)
        assert (loaded.delta is None) == (not run.after)
        assert run.after in ("", runs[0].method)
    job = Job(dataset="scenes-delta", recipe=path, seed=1, entry=runs[-1], overrides=())
    assert _resolved(job, tmp_path)[-1].startswith(
        f"delta.base_checkpoint={tmp_path}/scenes-delta/seed1/dense-single-task"
    )


def test_delta_m_is_against_the_mean_single_task_network() -> None:
    rows = [
        row(f"{SINGLE}: depth", 0, 0.4, 0), row(f"{SINGLE}: depth", 1, 0.6, 0), row(f"{SINGLE}: edges", 0, 0, 0.5),
        row(DENSE, 0, 0.45, 0.55), row("other", 0, 0.5, 0.4, 0.5),
    ]  # fmt: skip
    found = scored(rows, {"scenes": TASKS})
    assert [one["delta_m"] for one in found[:3]] == [None, None, None]
    assert found[3]["delta_m"] == pytest.approx(100 * (0.1 + 0.1) / 2)
    assert found[4]["delta_m"] == pytest.approx(100 * (0.0 - 0.2) / 2)
    assert scored(rows[1:], {"scenes": TASKS})[-1]["delta_m"] == pytest.approx(100 * ((0.6 - 0.5) / 0.6 - 0.2) / 2)
    assert scored(rows[3:], {"scenes": TASKS})[0]["delta_m"] is None


def test_a_run_becomes_a_row_and_is_not_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [
        Job(dataset="scenes", recipe=recipe(tmp_path), seed=3, entry=entry, overrides=())
        for entry in (
            Entry(method=HALF, settings=("train.steps=2",)),
            Entry(method="magnitude pretrained", sparsity=0.5, after=HALF,
                  settings=("masks.when=pretrained", "masks.method=magnitude", "masks.sparsity=0.5")),
        )
    ]  # fmt: skip
    study = Study(tmp_path / "methods.json", "command")
    run_study(jobs, study, tmp_path / "runs", side_by_side=1, timeout_seconds=300.0)
    assert study.failed == []
    kept = json.loads((tmp_path / "methods.json").read_text())["rows"]
    assert [(one["method"], one["seed"], one["sparsity"]) for one in kept] == [
        (HALF, 3, 0.0), ("magnitude pretrained", 3, 0.5)
    ]  # fmt: skip
    assert set(kept[0]["metrics"]) == {"depth", "edges"}
    again = Study(tmp_path / "methods.json", "command")
    assert again.missing(jobs) == []
    changed = Job(dataset="scenes", recipe=jobs[0].recipe, seed=3, entry=jobs[0].entry, overrides=("train.lr=0.1",))
    assert again.missing([changed]) == [changed]
    monkeypatch.setattr(methods, "run_module", lambda *_: pytest.fail("trained again"))
    assert run_job(jobs[0], tmp_path / "runs", 1.0)["metrics"] == kept[0]["metrics"]


def test_a_failed_run_is_told_and_leaves_no_row(tmp_path: Path) -> None:
    job = Job(dataset="scenes", recipe=recipe(tmp_path), seed=0, overrides=(),
              entry=Entry(method="broken", settings=("masks.sparsity=0.99", "masks.when=dynamic",)))  # fmt: skip
    bad = Job(dataset="scenes", recipe=job.recipe, seed=0, entry=job.entry, overrides=("train.stepz=3",))
    found = run_job(bad, tmp_path / "runs", 100.0)
    assert "unknown key" in found["failed"]
    study = Study(tmp_path / "methods.json", "command")
    study.add(found, {})
    assert study.failed
    assert not (tmp_path / "methods.json").exists()


def test_the_report_has_means_spreads_and_a_plot(tmp_path: Path) -> None:
    rows = [row(f"{SINGLE}: {task}", 0, 0.5, 0.5) for task in ("depth", "edges")]
    rows += [row(DENSE, seed, 0.5, 0.5 + 0.1 * seed) for seed in (0, 1)]
    rows += [row("snip static", seed, 0.5, 0.4, 0.9) for seed in (0, 1)]
    rows += [row("disparse static", seed, 0.5, 0.3 + 0.3 * seed, 0.9) for seed in (0, 1)]
    sparse = row("group sparsity, coupled", 0, 0.5, 0.6, 0.7)
    rows.append(sparse | {"counts": {"parameter_sparsity": 0.701, "group_sparsity": 0.4}})
    study = {
        "command": "c",
        "versions": {"torch": "2"},
        "machine": {"cpu": "x"},
        "rows": scored(rows, {"scenes": TASKS}),
    }
    (tmp_path / "methods.json").write_text(json.dumps(study))
    write_report(tmp_path / "methods.json")
    table = (tmp_path / "methods.md").read_text()
    assert "| dense multi-task | 0% | - | 2 | +5.00 ± 7.07 | +0.00 ± 0.00 | +0.00 ± 0.00 | +10.00 ± 14.14 |" in table
    assert "| snip static | 90% | - | 2 | -10.00 ± 0.00 | -15.00 ± 7.07 | +0.00 ± 0.00 | -20.00 ± 0.00 |" in table
    assert "| group sparsity, coupled | 70% | 70.1% of parameters, 40.0% of groups | 1 |" in table
    claim = "| disparse static at 90% is not behind snip static at 90% "
    assert claim + "| +5.00 ± 21.21 | 1 of 2 | yes, within the spread | +0.00 ± 0.00 | +10.00 ± 42.43 |" in table
    claim = "| group sparsity, coupled at 70% is not behind dense multi-task "
    assert claim + "| +10.00 | 1 of 1 | yes | +0.00 | +20.00 |" in table
    assert (tmp_path / "methods.svg").read_text().count("snip static") >= 1
