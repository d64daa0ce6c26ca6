"""Does sparsity keep accuracy? Every method at every sparsity on two data sets: `make methods`.

All runs of a base recipe have one budget of steps; see ``plan.py``. What a claim is about (``claims.py``) is trained
with more seeds where a point of accuracy can be told, and ``--regimes`` are further recipes for the methods at the
core. A row is written as soon as its run ends, and rows that are there already (of the same settings) are not made
again, so a stopped study goes on where it was. Runs are processes of one thread, as many side by side as the machine
has cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimtask.bench.studies import harness
from slimtask.bench.studies.harness import in_parallel, keep, known_rows, parser_of, run_module, stamped
from slimtask.bench.studies.methods.deployed import deployed, shipped
from slimtask.bench.studies.methods.plan import Entry, delta_entries, entries, of_regime
from slimtask.bench.studies.methods.report import write_report
from slimtask.bench.studies.methods.rows import CLAIMED, Row, scored
from slimtask.bench.timing.environment import usable_cores
from slimtask.files import read_json
from slimtask.train.recipe import Recipe, load_recipe

_LEARNED = ("entropy_bits", "temperature")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One entry on one data set with one seed."""

    dataset: str
    recipe: Path
    seed: int
    entry: Entry
    overrides: tuple[str, ...]

    @property
    def key(self) -> str:
        """Return what tells this job from all others."""
        return f"{self.dataset}/seed{self.seed}/{self.entry.name}"

    @property
    def settings(self) -> tuple[str, ...]:
        """Return everything that is changed in the base recipe."""
        return (*self.overrides, *self.entry.settings, f"train.seed={self.seed}")

    @property
    def digest(self) -> str:
        """Return a digest of base recipe and settings; where the data lie, and what has its default, is left out."""
        base = load_recipe(self.recipe, [one for one in self.overrides if not one.startswith("data.root=")])
        said = base.model_dump(mode="json", exclude_defaults=True)
        said["data"].pop("root", None)
        text = json.dumps([said, self.entry.settings, self.seed, self.entry.after], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def jobs_of(
    recipe: Path,
    seeds: Sequence[int],
    overrides: Sequence[str],
    levels: Sequence[float],
    *,
    claim_seeds: Sequence[int] = (),
    regime: bool = False,
) -> list[Job]:
    """Return the jobs of a recipe, seed by seed, in an order in which each comes after what it needs.

    Seeds that are in ``claim_seeds`` alone have only what a claim is about, and what that comes after. Without any
    there are no policies: their random draws are many, and worth it where a point can be told. A ``regime`` has the
    methods at the core.
    """
    from slimtask.train.prepare import open_splits

    base = load_recipe(recipe, overrides)
    tasks = [task.name for task in open_splits(base)[0].tasks]
    if base.delta is None:
        plan = entries(tasks, base.train.steps, levels)
        plan = of_regime(plan) if regime else plan if claim_seeds else [one for one in plan if not one.of_policies]
    else:
        plan = delta_entries(tasks, base.delta.base, base.delta.gates.density or 0.1)
    claimed = [one for one in plan if (one.method, one.sparsity) in CLAIMED]
    claimed += [one for one in plan if one.method in {other.after for other in claimed} and one not in claimed]
    return [
        Job(dataset=base.name.replace("-study", ""), recipe=recipe, seed=seed, entry=entry, overrides=tuple(overrides))
        for seed in dict.fromkeys((*seeds, *claim_seeds))
        for entry in plan
        if seed in seeds or entry in claimed
    ]


def run_job(job: Job, runs: Path, timeout_seconds: float) -> Row:
    """Return the row of ``job``, trained in ``runs``; a run that is there is resumed, a finished one read."""
    out, started = runs / job.key, time.perf_counter()
    if not (out / "summary.json").exists():
        settings = [value for one in _resolved(job, runs) for value in ("--set", one)]
        resume = (out / "recipe.yaml").exists()
        if out.exists() and not resume:
            shutil.rmtree(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        arguments = ["train", str(job.recipe), *settings, "--out", str(out), *(["--resume"] if resume else [])]
        ended = run_module("slimtask.cli.app", arguments, out.parent / f"{job.entry.name}.log", timeout_seconds)
        if ended:
            return {"key": job.key, "failed": ended}
    return _row(job, out) | {"seconds": round(time.perf_counter() - started, 1)}


def _resolved(job: Job, runs: Path) -> list[str]:
    """Return the settings with what follows from the run before: its checkpoint, or the cost of its policy."""
    settings = list(job.settings)
    if not job.entry.after:
        return settings
    before = (runs / job.key).parent / Entry(method=job.entry.after).name
    if any("$TRUNKS" in one for one in settings):
        trunks = read_json(before / "summary.json", "the run's summary")["policy"]["trunks"]
        return [one.replace("$TRUNKS", f"{trunks}") for one in settings]
    key = "delta.base_checkpoint" if any(one.startswith("delta.") for one in settings) else "train.init"
    return [*settings, f"{key}={before / 'checkpoint.safetensors'}"]


def _row(job: Job, out: Path) -> Row:
    summary = read_json(out / "summary.json", "the run's summary")
    row = {
        "key": job.key,
        "method": job.entry.method,
        "dataset": job.dataset,
        "sparsity": job.entry.sparsity,
        "seed": job.seed,
        **({"draw": job.entry.draw} if job.entry.draw else {}),
        "metrics": summary["test"],
        "validation": summary["validation"],
        "counts": summary.get("sparsity", {}),
        "digest": job.digest,
    }
    if "deltas" in summary:
        deltas = summary["deltas"].values()
        row["counts"] = {
            name: sum(one[name] for one in deltas) / len(deltas) for name in ("delta_bytes", "trunk_bytes")
        }
    if "policy" in summary:
        policy = summary["policy"]
        row["counts"] = {"skipped": 1 - policy["executed"], "trunks": policy["trunks"]}
        row["counts"] |= {name: summary["learning"][name] for name in _LEARNED if "learning" in summary}
        row |= {"notes": summary["notes"]} if summary.get("notes") else {}
    return row if "deltas" in summary else row | {"shipped": shipped(out)}


class Study:
    """The rows so far, kept in a JSON file."""

    def __init__(self, path: Path, command: str) -> None:
        self.path, self.command = path, command
        self.rows: dict[str, Row] = {row["key"]: row for row in known_rows(path)}
        self.failed: list[Row] = []

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the jobs without a row of the same settings."""
        return [job for job in jobs if self.rows.get(job.key, {}).get("digest") != job.digest]

    def add(self, row: Row, tasks: Mapping[str, Any]) -> None:
        """Take in a row and write the file; ``tasks`` are the specs by data set, which delta_m needs."""
        if "failed" in row:
            self.failed.append(row)
            return
        self.rows[row["key"]] = row
        rows = scored([self.rows[key] for key in sorted(self.rows)], tasks)
        keep(self.path, {**stamped(self.command), "rows": rows})


def run_study(jobs: Sequence[Job], study: Study, runs: Path, *, side_by_side: int, timeout_seconds: float) -> None:
    """Run what is missing: first the runs that stand alone, then those that start from them."""
    from slimtask.train.prepare import open_splits

    by_key = {job.key: job for job in jobs}
    tasks = {job.dataset: open_splits(_base(job))[0].tasks for job in jobs}
    wanted = study.missing(jobs)
    needed = {f"{job.key.rpartition('/')[0]}/{Entry(method=job.entry.after).name}" for job in wanted if job.entry.after}
    first = [job for job in jobs if not job.entry.after and (job in wanted or _gone(job, needed, runs))]
    for title, wave in (("first", first), ("then", [job for job in wanted if job.entry.after])):
        in_parallel(
            lambda key: run_job(by_key[key], runs, timeout_seconds),
            [job.key for job in wave],
            jobs=side_by_side,
            done=lambda row: study.add(row, tasks),
            title=title,
        )


def measure_deployed(jobs: Sequence[Job], study: Study, runs: Path, *, rounds: int = 30) -> None:
    """Add what the network of every policy costs to its row, one after the other, if that run's files are there."""
    from slimtask.train.prepare import open_splits

    tasks = {job.dataset: open_splits(_base(job))[0].tasks for job in jobs}
    for job in jobs:
        row = study.rows.get(job.key, {})
        here = (runs / job.key / "policy.json").exists()
        if row.get("digest") == job.digest and here and "deployed" not in row:
            study.add({**row, "deployed": deployed(runs / job.key, rounds=rounds)}, tasks)


def _gone(job: Job, needed: set[str], runs: Path) -> bool:
    """Return whether other jobs start from this one and its files are no longer there."""
    return job.key in needed and not (runs / job.key / "checkpoint.safetensors").exists()


def _base(job: Job) -> Recipe:
    return load_recipe(job.recipe, job.overrides)


def _command(arguments: argparse.Namespace) -> str:
    regimes = [] if not arguments.regimes else ["--regimes", *arguments.regimes]
    return f"python -m slimtask.bench.studies.methods {' '.join(map(str, (*arguments.recipes, *regimes)))}"


def main() -> int:
    """Run the study, or what is left of it, and write JSON, table and plot."""
    parser = parser_of("methods", __doc__)
    parser.add_argument("recipes", nargs="+", type=Path, help="one base recipe per data set")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override in every base recipe")
    parser.add_argument("--root", action="append", default=[], metavar="NAME=FOLDER", help="where a data set lies")
    parser.add_argument("--regimes", nargs="*", type=Path, default=[], help="recipes for the methods at the core only")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--claim-seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4, 5], help="of what is claimed")
    parser.add_argument("--claims-on", nargs="*", default=["scenes"], metavar="NAME", help="where a point can be told")
    parser.add_argument("--levels", nargs="+", type=float, default=[0.5, 0.7, 0.9])
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="runs side by side")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds a run may take")
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"))
    parser.add_argument("--json", type=Path, default=Path("docs/results/methods.json"))
    arguments = parser.parse_args()
    roots = dict(one.split("=", 1) for one in arguments.root)
    plans: list[list[Job]] = []
    for recipe in (*arguments.recipes, *arguments.regimes):
        base = load_recipe(recipe)
        name, regime = base.data.name, recipe in arguments.regimes
        overrides = [*arguments.set, *([f"data.root={roots[name]}"] if name in roots else [])]
        told = name in arguments.claims_on and base.delta is None and not regime
        more = arguments.claim_seeds if told else ()
        plans.append(jobs_of(recipe, arguments.seeds, overrides, arguments.levels, claim_seeds=more, regime=regime))
    study = Study(arguments.json, _command(arguments))
    for jobs in plans:
        run_study(jobs, study, arguments.runs, side_by_side=arguments.jobs, timeout_seconds=arguments.timeout)
        measure_deployed(jobs, study, arguments.runs)
        write_report(arguments.json)
    for row in study.failed:
        print(f"{row['key']} failed: {row['failed']}")
    return int(bool(study.failed))


if __name__ == "__main__":
    harness.run_study("methods", main)
