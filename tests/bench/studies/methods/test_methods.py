"""The comparison of the methods: the plan is whole, rows are kept and not made twice, delta_m is the definition's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import ttest_1samp

from slimtask.bench.studies.methods import __main__ as methods
from slimtask.bench.studies.methods.__main__ import Job, Study, _resolved, jobs_of, measure_deployed, run_job, run_study
from slimtask.bench.studies.methods.plan import (
    ADASHARE,
    DENSE,
    DRAWS,
    HALF,
    LEVELS,
    RANDOM,
    SINGLE,
    Entry,
    delta_entries,
    entries,
    of_regime,
)
from slimtask.bench.studies.methods.report import write_report
from slimtask.bench.studies.methods.rows import scored
from slimtask.checkpoint import Architecture, Checkpoint
from slimtask.compress.edits.branches import BranchPaths
from slimtask.compress.edits.trunk_costs import TrunkCosts
from slimtask.compress.structures.policy import Policy
from slimtask.tasks import Preprocessing, TaskSpec
from slimtask.train.models import multitask_net
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
    shipped = {"flops": round(1000 * (1 - sparsity / 2)), "params": round(500 * (1 - sparsity))}
    return {"key": key, "method": method, "dataset": "scenes", "sparsity": sparsity, "seed": seed,
            "metrics": metrics, "counts": {}, "digest": "d", "shipped": shipped}  # fmt: skip


def test_the_plan_has_every_method_at_every_level_and_valid_recipes(tmp_path: Path) -> None:
    runs = entries(["depth", "edges"], 400)
    assert len({run.name for run in runs}) == len(runs) == 3 + DRAWS + 2 + 9 * len(LEVELS) + 2
    by_name = {run.method: run for run in runs}
    for run in runs:
        assert not run.after or runs.index(by_name[run.after]) < runs.index(run)
        settings = [one.replace("$TRUNKS", "1.25") for one in run.settings]
        if run.after == HALF:
            settings.append("train.init=x.safetensors")
        load_recipe(recipe(tmp_path), settings)


def test_what_is_claimed_takes_more_seeds_and_what_it_comes_after_with_it(tmp_path: Path) -> None:
    jobs = jobs_of(recipe(tmp_path), [0], ["data.cache=false"], LEVELS, claim_seeds=[0, 5])
    assert len([job for job in jobs if job.seed == 0]) == len(entries(["depth", "edges"], 4))
    names = [job.entry.name for job in jobs if job.seed == 5]
    assert {"dense-multi-task-0", "adashare-0", "random-policy-0-8", "dense-half-the-steps-0"} <= set(names)
    assert {"group-sparsity-coupled-70", "disparse-static-90", "magnitude-pretrained-90"} <= set(names)
    assert not {"group-sparsity-coupled-50", "snip-static-70", "dense-single-task--depth-0"} & set(names)
    assert len({job.digest for job in jobs}) == len(jobs)
    without = jobs_of(recipe(tmp_path), [0], ["data.cache=false"], LEVELS)
    assert not [job for job in without if job.entry.of_policies]


def test_a_regime_has_the_methods_at_the_core() -> None:
    names = [run.name for run in of_regime(entries(["depth"], 4))]
    assert names[:2] == ["dense-multi-task-0", "dense-single-task--depth-0"]
    assert names[2:4] == ["group-sparsity-coupled-70", "disparse-static-70"]
    assert names[4:] == ["group-sparsity-coupled-90", "disparse-static-90", "random-static-90"]


def test_the_study_learns_its_policies_as_the_recipe_of_the_scenes_does() -> None:
    path = Path(__file__).parents[4] / "recipes" / "scenes"
    wanted, base = load_recipe(path / "adashare.yaml"), load_recipe(path / "study.yaml")
    chosen = next(run for run in entries(["depth"], base.train.steps) if run.method == ADASHARE)
    made = load_recipe(path / "study.yaml", chosen.settings)
    assert made.policy == wanted.policy
    assert made.train.steps == wanted.train.steps == 2 * base.train.steps


def test_a_policys_run_is_measured_as_deployed_and_its_cost_matched(tmp_path: Path) -> None:
    model = multitask_net(tasks=TASKS, width=0.125, head_hidden=8)
    rows = {"depth": (True,) * 7 + (False,), "edges": (True,) * 6 + (False, True)}
    policy = Policy(blocks=tuple(model.trunk.blocks), selects=rows)
    edit, priced = BranchPaths(policy=policy), TrunkCosts.of(model, torch.zeros(1, 3, 32, 32))
    edit.apply_(model)
    jobs = [
        Job(dataset="scenes", recipe=recipe(tmp_path), seed=0, entry=entry, overrides=())
        for entry in (
            Entry(method=ADASHARE),
            Entry(method=RANDOM, settings=("policy.random={seed: 1, trunks: $TRUNKS}",), after=ADASHARE, draw=1),
        )
    ]
    run, trunks = tmp_path / "runs" / jobs[0].key, priced.trunks(policy)
    run.mkdir(parents=True)
    Checkpoint(
        weights=model.state_dict(),
        architecture=Architecture(name="multitask-net", arguments={"width": 0.125, "head_hidden": 8}),
        tasks=TASKS,
        preprocessing=Preprocessing(height=32, width=32),
        edits=(edit.model_dump(mode="json"),),
    ).save(run / "checkpoint.safetensors")
    policy.save(run / "policy.json")
    summary = {"test": {}, "validation": {}, "policy": {"executed": 0.9, "trunks": trunks}, "notes": []}
    (run / "summary.json").write_text(json.dumps(summary))
    study = Study(tmp_path / "methods.json", "command")
    study.add(run_job(jobs[0], tmp_path / "runs", 1.0), {})
    measure_deployed(jobs[:1], study, tmp_path / "runs", rounds=1)
    found = json.loads((tmp_path / "methods.json").read_text())["rows"][0]
    assert found["counts"] == {"skipped": pytest.approx(0.1), "trunks": trunks}
    assert _resolved(jobs[1], tmp_path / "runs") == [f"policy.random={{seed: 1, trunks: {trunks}}}", "train.seed=0"]
    costs = {name: found["deployed"][name] for name in ("policy", "dense")}
    trunk = costs["dense"]["apart"]["flops"] - costs["dense"]["together"]["flops"]  # graphs apart run it twice
    expected = costs["dense"]["together"]["flops"] + (trunks - 1) * trunk
    assert costs["policy"]["together"]["flops"] == pytest.approx(expected)
    assert all(use["median_ms"] > 0 for uses in costs.values() for use in uses.values())


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


@pytest.mark.slow
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
    for seed in (0, 1):
        rows += [
            row(RANDOM, seed, 0.5, edges) | {"draw": draw, "counts": {"skipped": 0.1}}
            for draw, edges in ((1, 0.2), (2, 0.4))
        ]
        policy = {
            use: {"flops": 10 * f, "median_ms": 20 * t} for use, f, t in (("together", 0.5, 0.6), ("apart", 0.9, 0.8))
        }
        dense = {use: {"flops": 10 * f, "median_ms": 20 * f} for use, f in (("together", 0.4), ("apart", 1.0))}
        counts = {"skipped": 0.1, "trunks": 1.2, "entropy_bits": 0.1}
        learned = row(ADASHARE, seed, 0.5, 0.35 + 0.01 * seed)
        rows.append(learned | {"counts": counts, "deployed": {"policy": policy, "dense": dense, "steady": True}})
    study = {
        "command": "c",
        "versions": {"torch": "2"},
        "machine": {"cpu": "x"},
        "rows": scored(rows, {"scenes": TASKS}),
    }
    (tmp_path / "methods.json").write_text(json.dumps(study))
    write_report(tmp_path / "methods.json")
    table = (tmp_path / "methods.md").read_text()
    assert (
        "| dense multi-task | 0% | - | 100% | 100% | 2 | +5.00 ± 7.07 | +0.00 ± 0.00 | +0.00 ± 0.00 | +10.00 ± 14.14 |"
        in table
    )
    assert (
        "| snip static | 90% | - | 55% | 10% | 2 | -10.00 ± 0.00 | -15.00 ± 7.07 | +0.00 ± 0.00 | -20.00 ± 0.00 |"
        in table
    )
    assert "| group sparsity, coupled | 70% | 70.1% of parameters, 40.0% of groups | 65% | 30% | 1 |" in table
    low, high = ttest_1samp([-10.0, 20.0], 0).confidence_interval()
    claim = "| disparse static at 90% is not behind snip static at 90% "
    interval = f"| {low:+.2f} to {high:+.2f} "
    assert claim + f"| +5.00 ± 21.21 {interval}| 1 of 2 | open | +0.00 ± 0.00 | +10.00 ± 42.43 |" in table
    claim = "| group sparsity, coupled at 70% is not behind dense multi-task "
    assert claim + "| +10.00 | - | 1 of 1 | one seed | +0.00 | +20.00 |" in table
    # the mean of the draws is a seed's value; the policy is 5 and 6 % ahead of it
    assert "| random policy | 0% | 10.0% of blocks | 100% | 100% | 2 x 2 | -20.00 ± 0.00 |" in table
    assert "| adashare is not behind random policy | +5.50 ± 0.71 | -0.85 to +11.85 | 2 of 2 | open |" in table
    assert (
        "| adashare | 2 | 1.20 ± 0.00 | 0.10 ± 0.00 | 0.50 ± 0.00 | 0.90 ± 0.00 | 0.60 ± 0.00 | 0.80 ± 0.00 |" in table
    )
    assert (tmp_path / "methods.svg").read_text().count("snip static") >= 1
