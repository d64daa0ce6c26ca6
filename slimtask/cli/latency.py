"""`slimtask compress --latency-ms`: until the deployed graphs meet their budgets, by measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimtask.cli.common import console, stage_bars, table
from slimtask.cli.network import Network
from slimtask.errors import InputError

if TYPE_CHECKING:
    from slimtask.bench.to_latency import ToLatency
    from slimtask.checkpoint import Checkpoint


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


def compress_to_latency(
    network: Network, budgets: dict[str, float], on: str, align: int | None, how: dict[str, Any]
) -> tuple[Checkpoint, ToLatency]:
    """Return the checkpoint cut to the budgets and what was measured; ``align`` None takes the measured staircase."""
    from torch import Tensor

    from slimtask.bench.to_latency import prune_to_latency
    from slimtask.compress.api import with_compressed, with_edit

    example = network.checkpoint.example()
    if not isinstance(example, Tensor):
        raise InputError("a latency budget needs a network of one input; this one has several.")
    with _by_stage() as report:
        done = prune_to_latency(
            network.rebuild(),
            example,
            budgets,
            on=on,
            align="auto" if align is None else align,
            progress=report,
            **how,
        )
    told = {"criterion": how.get("criterion", "l2"), "budgets_ms": budgets, "on": on, "align": align or "auto"}
    told |= _weighed(done)
    skipped = network.checkpoint if done.skip is None else with_edit(network.checkpoint, done.skip)
    return with_compressed(skipped, done.compressed, told), done


def compress_to_flops(network: Network, flops: float, how: dict[str, Any]) -> tuple[Checkpoint, ToLatency]:
    """Return the checkpoint cut to ``flops`` (up to 1 a ratio) with counts off the measured staircase."""
    from torch import Tensor

    from slimtask.bench.to_latency import prune_to_flops
    from slimtask.compress.api import with_compressed
    from slimtask.compress.score.budget import Budget
    from slimtask.compress.score.cost import count_flops

    example, model = network.checkpoint.example(), network.rebuild()
    if not isinstance(example, Tensor):
        raise InputError("--align auto needs a network of one input; this one has several, give a number.")
    budget = Budget(flops=flops)
    limit = budget.limit(count_flops(model, example))
    with _by_stage() as report:
        done = prune_to_flops(model, example, limit, progress=report, **how)
    told = {"criterion": how.get("criterion", "l2"), "budget": budget, "align": "auto", **_weighed(done)}
    return with_compressed(network.checkpoint, done.compressed, told), done


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


def _weighed(done: ToLatency) -> dict[str, Any]:
    """Return by what the groups were weighed against each other, and how far the outputs moved."""
    return {"weighed_on": "noise" if done.noise else "images", "by": done.by, "distance": done.distance}


def show_paths(done: ToLatency) -> dict[str, Any]:
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
    return {"blocks": blocks, **_weighed(done), "paths": [row.model_dump(mode="json") for row in done.paths]}
