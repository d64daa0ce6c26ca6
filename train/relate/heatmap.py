"""The matrix of task similarities as a picture, without its diagonal: beside ones the others would look alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from slimtask.files import atomic_file
from slimtask.train.relate.relation import Relation

_NAMES = {"epi": "EPI", "iou": "IoU", "css": "CSS", "mcss": "MCSS"}


def title(relation: Relation) -> str:
    """Return what the deciding similarity is, in words: measure, layer weighting, sparsities, seeds."""
    config = relation.config
    sparsities = ", ".join(f"{config.sparsities[index]:.0%}" for index in config.averaged)
    seeds = f"{config.seeds} seed" + ("s" if config.seeds > 1 else "")
    weighting = config.weighting.replace("_", " ")
    return f"{_NAMES[config.similarity]}, {weighting} layer weights, sparsity {sparsities}, {seeds}"


def save_heatmap(relation: Relation, path: Path | str) -> None:
    """Write the deciding similarities of all pairs of tasks to ``path`` atomically; the suffix says PNG or SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    suffix = Path(path).suffix.removeprefix(".")
    side = 2.2 + 0.85 * len(relation.tasks)
    with rc_context({"svg.hashsalt": "relate", "svg.fonttype": "none", "text.parse_math": False}):
        figure = Figure(figsize=(side + 0.8, side), layout="constrained")
        _draw(figure, relation)
        with atomic_file(path) as temporary:
            metadata = {"Date": None} if suffix == "svg" else None
            figure.savefig(temporary, format=suffix, dpi=150, metadata=metadata)


def _draw(figure: Any, relation: Relation) -> None:
    means = relation.matrix(relation.per_seed().mean(axis=0))
    shown = np.ma.masked_array(means, mask=np.eye(len(means), dtype=bool))
    axes = figure.add_subplot()
    picture = axes.imshow(shown, cmap="Blues")
    places = range(len(relation.tasks))
    axes.set_xticks(places, relation.tasks, rotation=30, ha="right")
    axes.set_yticks(places, relation.tasks)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title(relation), fontsize=9, loc="left")
    _label(axes, means)
    figure.colorbar(picture, ax=axes, shrink=0.8).outline.set_visible(False)


def _label(axes: Any, means: Float64[np.ndarray, "tasks tasks"]) -> None:
    """Write every pair's similarity into its square, light on dark."""
    others = means[~np.eye(len(means), dtype=bool)]
    middle = (others.min() + others.max()) / 2
    for row in range(len(means)):
        for column in range(len(means)):
            if row != column:
                dark = means[row, column] > middle
                axes.text(
                    column,
                    row,
                    f"{means[row, column]:.3f}",
                    ha="center",
                    va="center",
                    color="white" if dark else "black",
                )
