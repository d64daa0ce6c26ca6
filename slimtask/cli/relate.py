"""`slimtask relate`: how alike the tasks of a recipe are, and which to train together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimtask.cli.common import JsonOption, console, emit, interruptible, progress_bar, table

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float64

    from slimtask.train.relate.relation import Relation


def relate_verb(
    recipe: Annotated[
        Path, typer.Argument(help="YAML recipe, with a relate section or with its defaults; or the name of one below.")
    ],
    out: Annotated[Path | None, typer.Option(help="Output folder; default runs/NAME-relate.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override a key.")] = None,
    json_path: JsonOption = None,
) -> None:
    """Measure task similarity without training, suggest groups; write relate.json, relate.png and relate.svg.

    Example: slimtask relate scenes/relate --set relate.groups=3 --out runs/relate
    """
    from slimtask.files import refuse_existing, refuse_unwritable
    from slimtask.train.recipe import load_recipe
    from slimtask.train.relate.relate import relate, save

    chosen = load_recipe(recipe, settings or [])
    folder = out or Path("runs") / f"{chosen.name}-relate"
    refuse_existing(folder)
    refuse_unwritable(folder)
    with interruptible("interrupted; nothing was written."), progress_bar(f"relate {chosen.name}") as progress:
        relation = relate(chosen, chosen.relate, progress=progress)
        summary = save(relation, folder)
    show(relation)
    console.print(f"every measure and layer weighting: {folder / 'relate.json'}; picture: {folder / 'relate.png'}")
    emit(summary, json_path)


def show(relation: Relation) -> None:
    """Print the deciding similarities, what each measure says of each pair, and the grouping."""
    from slimtask.train.relate.heatmap import title

    console.print(f"similarity: {title(relation)}", soft_wrap=True)
    _show_matrix(relation)
    _show_measures(relation)
    grouping, seeds = relation.grouping(), relation.config.seeds
    groups = " | ".join(", ".join(group) for group in grouping.groups)
    kind = "best" if grouping.exact else "good"
    console.print(f"{kind} split into at most {relation.config.groups} groups: [bold]{groups}[/bold]", soft_wrap=True)
    console.print(
        f"sum of the tasks' mean similarities {grouping.score:.3f}, a task alone counting {grouping.alone:.3f}; "
        f"{relation.agreement()} of {seeds} seeds suggest the same split",
        soft_wrap=True,
    )


def _show_matrix(relation: Relation) -> None:
    means = relation.matrix(relation.per_seed().mean(axis=0))
    rows = table("Similarity of the tasks", "", *relation.tasks)
    for i, task in enumerate(relation.tasks):
        rows.add_row(task, *("-" if i == j else f"{means[i, j]:.3f}" for j in range(len(relation.tasks))))
    console.print(rows)


def _show_measures(relation: Relation) -> None:
    from slimtask.train.relate.config import METRICS

    rows = table("All measures, with their standard deviation over the seeds", "pair", *METRICS)
    for index, (p, q) in enumerate(relation.pairs):
        rows.add_row(f"{p} - {q}", *(_cell(relation.per_seed(metric)[:, index]) for metric in METRICS))
    console.print(rows)


def _cell(seeds: Float64[np.ndarray, " seeds"]) -> str:
    return f"{seeds.mean():.3f}" + (f" ±{seeds.std(ddof=1):.3f}" if len(seeds) > 1 else "")
