"""`slimtask compress --latency-ms`: until the deployed graphs meet their budgets, by measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimtask.cli.common import console, stage_bars, table
from slimtask.cli.network import Network
from slimtask.errors import InputError

if TYPE_CHECKING:
    from slimtask.checkpoint import Checkpoint
    from slimtask.compress.api.how import ToFlops, ToLatency
    from slimtask.compress.latency.budgets import LatencyCut


BlocksOption = Annotated[
    bool | None,
    typer.Option("--blocks/--no-blocks", help="With --latency-ms: residual blocks may go whole (the default)."),
]

FloorOption = Annotated[
    float | None,
    typer.Option("--floor", help="With a measured budget: least share of a group's channels that stays (0.125)."),
]


def parse_budgets(text: str) -> dict[str, float]:
    """Return milliseconds per path of ``8`` (the whole network) or ``all=12,depth=5,depth+edges=7``."""
    budgets: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.strip().rpartition("=")
        path = name.strip() if equals else "all"
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not path or path in budgets or not 0 < value < float("inf"):
            raise InputError(f"--latency-ms takes 8, or one number per path such as all=12,depth=5, not '{text}'.")
        budgets[path] = value
    return budgets


def compress_measured(network: Network, how: ToLatency | ToFlops) -> tuple[Checkpoint, LatencyCut]:
    """Return the checkpoint cut as ``how`` says and what was measured, with a bar for every stage meanwhile."""
    from slimtask.compress.api.checkpoints import compress_checkpoint

    with _by_stage() as report:
        return compress_checkpoint(network.checkpoint, replace(how, progress=report), factory=network.factory)


@contextmanager
def _by_stage() -> Iterator[Callable[[str, int, int], None]]:
    """Yield ``report(stage, done, total)``, which draws a bar for every stage."""
    with stage_bars() as stage:
        bars: dict[str, Callable[[int, int, str], None]] = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = stage(name)
            bars[name](done, total, "")

        yield report


def show_paths(done: LatencyCut) -> dict[str, Any]:
    """Print the blocks that went and the table of budgets, and return both as JSON."""
    if done.skip is not None:
        console.print(
            f"{len(done.skip.blocks)} block(s) went whole: {', '.join(done.skip.blocks)} (the certificate is "
            "about the channels that followed)",
            markup=False,
        )
    rows = table("Latency, ms", "path", "budget", "dense", "predicted", "measured", "speed-up")
    for row in done.paths:
        numbers = (row.budget_ms, row.dense_ms, row.predicted_ms, row.measured_ms)
        rows.add_row(row.path, *(f"{number:.3g}" for number in numbers), f"{row.dense_ms / row.measured_ms:.2f}")
    console.print(rows)
    on = "noise, as there are no images: --calibration RECIPE names some" if done.noise else "training images"
    console.print(
        f"what groups matter was measured on {on}; before any tuning the outputs move by {done.distance:.3g} of their "
        "mean square",
        markup=False,
        highlight=False,
    )
    blocks = [] if done.skip is None else list(done.skip.blocks)
    return {"blocks": blocks, **done.weighed, "paths": [row.model_dump(mode="json") for row in done.paths]}
