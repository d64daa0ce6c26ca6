"""A policy as a picture: a row per task, a column per block, dark where it is executed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimtask.compress.structures.policy import Policy
from slimtask.files import atomic_file


def save_heatmap(path: Path | str, policy: Policy, probabilities: Mapping[str, Sequence[float]] | None = None) -> None:
    """Write the policy to ``path`` atomically; the suffix says PNG or SVG.

    ``probabilities``, one value in 0 .. 1 per task and block, are those of executing; they are drawn above it.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    chosen = {task: [float(used) for used in row] for task, row in policy.selects.items()}
    panels = {"chosen policy": chosen}
    if probabilities is not None:
        panels = {"probability of executing": {task: list(probabilities[task]) for task in policy.tasks}, **panels}
    suffix = Path(path).suffix.removeprefix(".")
    size = (1.8 + 0.55 * len(policy.blocks), len(panels) * (1.1 + 0.4 * len(policy.tasks)))
    with rc_context({"svg.hashsalt": "policy", "svg.fonttype": "none", "text.parse_math": False}):
        figure = Figure(figsize=size, layout="constrained")
        for number, (title, rows) in enumerate(panels.items(), start=1):
            _draw(figure.add_subplot(len(panels), 1, number), title, policy, rows)
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None)


def _draw(axes: Any, title: str, policy: Policy, rows: Mapping[str, Sequence[float]]) -> None:
    axes.imshow(list(rows.values()), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(policy.blocks)), policy.blocks, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(policy.tasks)), policy.tasks)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9, loc="left")
    for y, values in enumerate(rows.values()):
        for x, value in enumerate(values):
            shown = f"{value:.2f}".removeprefix("0") if 0 < value < 1 else str(int(value))
            axes.text(x, y, shown, ha="center", va="center", fontsize=7, color="white" if value > 0.5 else "black")
