"""`slimtask train`: a recipe to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimtask.cli.common import JsonOption, console, emit, interruptible, progress_bar, table
from slimtask.errors import InputError

if TYPE_CHECKING:
    from slimtask.train.trials import Trials

_NOT_REACHED = {
    "sparsity": "the sparsity target was not reached; give the run more steps or a longer ramp",
    "policy": "some blocks could not be skipped yet; give the run more steps or a faster policy.curriculum_speed",
}


def train_verb(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe; or the name of one below.")],
    out: Annotated[Path | None, typer.Option(help="Output folder; default runs/NAME.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override a key.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue a run that was stopped.")] = False,
    trials: Annotated[int, typer.Option(min=1, max=1000, help="Train so often, by other seeds; mean, spread.")] = 1,
    json_path: JsonOption = None,
) -> None:
    """Train a network, dense or sparse, as a recipe says.

    Example: slimtask train scenes --set sparsity.target=0.7 --out runs/scenes70
    """
    from slimtask.train.evaluate import finite
    from slimtask.train.recipe import load_recipe
    from slimtask.train.run import train

    chosen = load_recipe(recipe, settings or [])
    folder = out or Path("runs") / chosen.name
    _check_folder(folder, trials, resume=resume)
    sentence = f"interrupted; the state is saved, the same command with --resume --out {folder} continues."
    with interruptible(sentence), progress_bar(f"train {chosen.name}") as progress:
        if trials > 1:
            from slimtask.train.trials import train_trials

            _show_trials(train_trials(chosen, folder, trials, resume=resume, progress=progress), folder, json_path)
            return
        result = train(chosen, folder, resume=resume, progress=progress)
    rows = table("Scores", "task", "metric", "validation", "test")
    for task, metrics in result.test.metrics.items():
        for metric, value in metrics.items():
            rows.add_row(task, metric, f"{result.validation.metrics[task][metric]:.4f}", f"{value:.4f}")
    console.print(rows)
    for name, value in result.sparsity.items():
        console.print(f"{name.replace('_', ' ')}: {value:.4g}")
    if not result.reached:
        console.print(f"[yellow]{_NOT_REACHED['sparsity' if chosen.policy is None else 'policy']}[/yellow]")
    for note in result.notes:
        console.print(f"[yellow]{note}[/yellow]")
    console.print(f"checkpoint: {result.checkpoint}")
    summary: dict[str, Any] = {
        "checkpoint": str(result.checkpoint),
        "steps": result.steps,
        "sparsity": result.sparsity,
        "target_reached": result.reached,
        "notes": result.notes,
        "validation": finite(result.validation.metrics),
        "test": finite(result.test.metrics),
    }
    emit(summary, json_path)


def _check_folder(folder: Path, trials: int, *, resume: bool) -> None:
    """Raise InputError if a run is in ``folder`` that these words do not continue, and say which ones do."""
    from slimtask.train.trials import holds_trials

    if not resume and (folder / "recipe.yaml").exists():
        raise InputError(f"the run '{folder}' exists already; continue it with --resume, or choose another --out.")
    if resume and trials == 1 and holds_trials(folder):
        raise InputError(
            f"'{folder}' holds trials, not a single run; resume them with --trials and their number, or choose another "
            "--out."
        )


def _show_trials(trials: Trials, folder: Path, json_path: Path | None) -> None:
    from slimtask.train.evaluate import finite

    count = len(trials.results)
    rows = table(f"Test scores of {count} trials", "task", "metric", "mean", "std", *map(str, range(count)))
    for task, metrics in trials.mean.items():
        for metric, value in metrics.items():
            single = [f"{result.test.metrics[task][metric]:.4f}" for result in trials.results]
            rows.add_row(task, metric, f"{value:.4f}", f"{trials.std[task][metric]:.4f}", *single)
    console.print(rows)
    console.print(f"checkpoints: {folder}/trial0 to trial{count - 1}")
    checkpoints = [str(result.checkpoint) for result in trials.results]
    emit({"checkpoints": checkpoints, "mean": finite(trials.mean), "std": finite(trials.std)}, json_path)
