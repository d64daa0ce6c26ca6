"""`slimtask evaluate`: every metric of every task on a split, with intervals, of any network that lies in a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimtask.cli.common import JsonOption, console, emit, progress_bar, table, words
from slimtask.cli.network import ModelOption
from slimtask.cli.scored import Result, Split, Subject, is_foreign, open_subject, split_of
from slimtask.errors import InputError

if TYPE_CHECKING:
    from slimtask.train.metrics import Extra
    from slimtask.train.scores import Estimate


def evaluate_verb(
    path: Annotated[Path, typer.Argument(help="Checkpoint, bundle folder, or folder of `compress --per-task`.")],
    data: Annotated[
        Path | None, typer.Option(help="Recipe whose data to score on; else the one the network was trained with.")
    ] = None,
    split: Annotated[str, typer.Option(help="val, test or train (without augmentation).")] = "val",
    tasks: Annotated[str | None, typer.Option(help="Comma-separated task names; all by default.")] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Metrics beside the usual ones, by name, comma-separated, or all.")
    ] = None,
    against: Annotated[Path | None, typer.Option(help="What to compare with, image by image: delta_m.")] = None,
    paths: Annotated[
        str | None, typer.Option(help="Of a bundle: fused, per-task or both; else the files that `run` takes.")
    ] = None,
    backend: Annotated[str, typer.Option(help="Of a bundle: what runs it, as in `run`.")] = "onnxruntime-cpu",
    resamples: Annotated[
        int, typer.Option(min=0, max=100_000, help="Resamples of the images behind the intervals.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the resamples.")] = 0,
    model: ModelOption = None,
    json_path: JsonOption = None,
) -> None:
    """Score a network on a split: every task's metrics with 95 % bootstrap intervals over the images.

    Example: slimtask evaluate runs/scenes70/small.safetensors --against runs/scenes/checkpoint.safetensors

    Example: slimtask evaluate runs/scenes70/bundle --split test --paths fused,per-task --metrics all
    """
    chosen = words(paths)
    # where one of two networks is the user's own, --model makes that one
    ours = model if against is None or is_foreign(path) or not is_foreign(against) else None
    subject = open_subject(path, ours, chosen, backend)
    if chosen is not None and not subject.bundle:
        raise InputError(f"--paths chooses files of a bundle, and '{path}' is none; leave it out.")
    opened = subject.open_split(split, data, words(tasks))
    for task, why in opened.not_scored.items():
        _say(f"'{task}' is not scored: {why}")
    extra = "all" if metrics == "all" else words(metrics) or ()
    how = {"resamples": resamples, "seed": seed}
    other = None if against is None else _open_other(against, model, backend, opened)
    with progress_bar("evaluate") as report:
        results = subject.run(opened, extra=extra, progress=report, **how)
    baseline = None if other is None else _run_other(*other, extra, how)
    deltas = [None if baseline is None else one.scores.delta_m(baseline.scores) for one in results]
    _show(subject, opened, results, baseline)
    for one, delta in zip(results, deltas, strict=True):
        if delta is not None:
            told = f"{round(delta.value, 2) + 0.0:+.2f} % {_interval(delta, 2)}, paired over the images ({_files(one)})"
            _say(f"delta_m against {against}: {told}")
    emit(_json(subject, opened, results, deltas, against, baseline), json_path)


def _open_other(path: Path, model: str | None, backend: str, opened: Split) -> tuple[Subject, Split]:
    """Return what is compared with, and the same split at its size, for the tasks that both have."""
    subject = open_subject(path, model if is_foreign(path) else None, None, backend)
    names = [task.name for task in opened.tasks]
    shared = [task for task in subject.tasks if task.name in names]
    if not shared:
        raise InputError(f"'{path}' has none of the tasks {', '.join(names)}; compare with a network that has some.")
    split = split_of(opened.recipe, opened.name, subject.preprocessing, shared)
    lacking = {name: "it has no such task." for name in names if name not in [task.name for task in shared]}
    for name, why in (lacking | split.not_scored).items():
        _say(f"'{name}' is not compared with '{path}': {why}")
    sizes = [f"{one.size.width} x {one.size.height}" for one in (opened, split)]
    if sizes[0] != sizes[1]:
        _say(f"each network is scored at its own size, {sizes[0]} and {sizes[1]} pixels.")
    return subject, split


def _say(sentence: str) -> None:
    console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _run_other(subject: Subject, split: Split, extra: Extra, how: dict[str, Any]) -> Result:
    from slimtask.train.metrics import metric_names

    known = {name for task in split.tasks for name in metric_names(task.kind)}
    kept = extra if isinstance(extra, str) else [name for name in extra if name in known]
    with progress_bar(f"evaluate {subject.path.name}") as report:
        return subject.run(split, extra=kept, progress=report, **how)[0]


def _show(subject: Subject, split: Split, results: Sequence[Result], baseline: Result | None) -> None:
    from slimtask.train.metrics import better

    one = len(results) == 1
    by = f", by {_files(results[0])}" if one else ""
    images = results[0].scores.images
    title = (
        f"{subject.path} on the {split.name} split of {split.recipe.data.name}, {images} image{'s' * (images > 1)}{by}"
    )
    rows = table(title, "metric", "better", "score", "95 % interval", "against", "by")
    theirs = {} if baseline is None else baseline.scores.estimates()
    for result in results:
        for task, metrics in result.scores.estimates().items():
            for name, found in metrics.items():
                other = theirs.get(task, {}).get(name)
                cells = (_number(found.value), _interval(found), "" if other is None else _number(other.value))
                rows.add_row(f"{task} {name}", better(name), *cells, "" if one else result.served_by[task])
    console.print(rows)


def _files(result: Result) -> str:
    """Return what served the tasks, each once."""
    return "; ".join(dict.fromkeys(result.served_by.values()))


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"


def _interval(found: Estimate, digits: int = 4) -> str:
    return f"[{found.low:.{digits}f}, {found.high:.{digits}f}]" if math.isfinite(found.low) else "-"


def _json(
    subject: Subject,
    split: Split,
    results: Sequence[Result],
    deltas: Sequence[Estimate | None],
    against: Path | None,
    baseline: Result | None,
) -> dict[str, Any]:
    """Return everything as JSON, None for what is not a finite number."""
    from slimtask.train.scores import LEVEL

    told = [
        _result(one) | ({} if delta is None else {"delta_m": _estimate(delta)})
        for one, delta in zip(results, deltas, strict=True)
    ]
    scores = results[0].scores
    return {
        "path": str(subject.path),
        "data": split.recipe.data.name,
        "split": split.name,
        "images": scores.images,
        "intervals": {"level": LEVEL, "resamples": scores.resamples, "seed": scores.seed},
        "results": told,
        "not_scored": split.not_scored,
        "against": None if baseline is None else {"path": str(against), **_result(baseline)},
    }


def _result(result: Result) -> dict[str, Any]:
    metrics = {
        task: {name: _estimate(found) for name, found in named.items()}
        for task, named in result.scores.estimates().items()
    }
    return {"served_by": result.served_by, "metrics": metrics}


def _estimate(found: Estimate) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in vars(found).items()}
