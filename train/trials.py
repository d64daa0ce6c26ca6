"""Several trials of one recipe, which differ in the seed alone: every score with its mean and spread."""

from __future__ import annotations

import math
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimtask.errors import InputError
from slimtask.files import write_json
from slimtask.train import parallel
from slimtask.train.evaluate import finite
from slimtask.train.loop import Progress, TrainResult
from slimtask.train.recipe import Recipe
from slimtask.train.run import train
from slimtask.train.stages import STATE, open_folder, vanishing_if_refused

Scores = dict[str, dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The trials' results, and mean and sample standard deviation (0 for one trial) of every test metric by task."""

    results: tuple[TrainResult, ...]
    mean: Scores
    std: Scores


def train_trials(
    recipe: Recipe, out: Path | str, count: int, *, resume: bool = False, progress: Progress | None = None
) -> Trials:
    """Train ``recipe`` ``count`` times, with seeds from ``train.seed`` on, and return the Trials.

    Trial n goes to ``out / "trial<n>"``, the table of all to ``out / "summary.json"``. The data keep their seed: what
    varies are initialisation, order and augmentation. ``resume`` goes on where the last one was stopped.
    """
    if count < 1:
        raise InputError(f"{count} trials are none; give at least one.")
    out, report = Path(out), progress or (lambda step, steps, text: None)
    if resume and ((out / STATE).exists() or any(out.glob(f"[!t.]*/{STATE}"))):  # a stage, no trial<n>
        raise InputError(
            f"'{out}' holds a single run, not trials; resume it without --trials, or choose another --out."
        )
    open_folder(recipe, out, resume=resume)
    results = []
    for number in range(count):
        seeded = recipe.train.model_copy(update={"seed": recipe.train.seed + number})
        part = _part_of(report, count, number)
        results.append(_trial(recipe.model_copy(update={"train": seeded}), out / f"trial{number}", part))
    mean, std = spread([result.test.metrics for result in results])
    if parallel.rank() == 0:
        table = {"trials": count, "mean": finite(mean), "std": finite(std), "sparsity": _sparsity(results)}
        write_json(out / "summary.json", table)
    return Trials(results=tuple(results), mean=mean, std=std)


def spread(scores: list[Scores]) -> tuple[Scores, Scores]:
    """Return mean and sample standard deviation of every metric of every task over the trials.

    A metric that is not a finite number in one of them has no deviation: NaN.
    """
    mean: Scores = {}
    std: Scores = {}
    for task, metrics in scores[0].items():
        for name in metrics:
            values = [one[task][name] for one in scores]
            mean.setdefault(task, {})[name] = statistics.fmean(values)
            std.setdefault(task, {})[name] = _deviation(values)
    return mean, std


def holds_trials(out: Path) -> bool:
    """Return whether ``out`` is the folder of several trials, which a single run does not continue."""
    return (out / "trial0").is_dir()


def _part_of(progress: Progress, count: int, number: int) -> Progress:
    """Return the progress of one of ``count`` trials, each as long as it says itself: a method may have stages."""

    def report(step: int, steps: int, text: str) -> None:
        progress(number * steps + step, count * steps, f"trial {number + 1} of {count}: {text}")

    return report


def _deviation(values: list[float]) -> float:
    if not all(map(math.isfinite, values)):
        return math.nan  # statistics.stdev raises AttributeError
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _trial(recipe: Recipe, folder: Path, progress: Progress) -> TrainResult:
    started = (folder / "recipe.yaml").exists()
    parallel.meet()  # all have looked before the first one writes
    if folder.exists() and not started and parallel.rank() == 0:
        shutil.rmtree(folder)  # killed before there was anything to resume
    parallel.meet()
    with vanishing_if_refused(folder.parent):
        return train(recipe, folder, resume=started, progress=progress)


def _sparsity(results: list[TrainResult]) -> dict[str, Any]:
    names = results[0].sparsity
    return {name: [result.sparsity[name] for result in results] for name in names}
