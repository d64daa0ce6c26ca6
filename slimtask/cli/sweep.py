"""`slimtask sweep`: one recipe at several sparsity levels, to one report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimtask.cli.common import JsonOption, console, emit, interruptible, stage_bars, table, words
from slimtask.errors import InputError

if TYPE_CHECKING:
    from slimtask.bench.report.schema import Report


def sweep_verb(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe with a sparsity section; or the name of one below.")],
    levels: Annotated[str, typer.Option(help="Sparsity targets; the dense network is always level 0.")] = "0.5,0.7,0.9",
    out: Annotated[Path | None, typer.Option(help="Output folder; default runs/NAME-sweep.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override a key.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue a sweep that was stopped.")] = False,
    engines: Annotated[str | None, typer.Option(help="Engines of the best level: tensorrt, tensorrt-rtx.")] = None,
    json_path: JsonOption = None,
) -> None:
    """Train, compress, certify, export and time a recipe at several sparsity levels; write report.html and report.json.

    Example: slimtask sweep scenes --levels 0.5,0.7,0.9
    """
    from slimtask.train.recipe import load_recipe

    chosen = load_recipe(recipe, settings or [])
    folder = out or Path("runs") / f"{chosen.name}-sweep"
    run_sweep(chosen, folder, parse_levels(levels), words(engines) or (), json_path, resume=resume)


def run_sweep(
    recipe: object,
    out: Path,
    levels: tuple[float, ...],
    engines: tuple[str, ...],
    json_path: Path | None,
    *,
    resume: bool = False,
) -> None:
    """Run a sweep with progress bars and print its table."""
    from slimtask.bench.sweeping import sweep

    command = " ".join(["slimtask", *map(shlex.quote, sys.argv[1:])])
    with (
        interruptible("interrupted; `slimtask sweep` with --resume and the same words continues."),
        stage_bars() as stages,
    ):
        report = sweep(recipe, out, levels=levels, engines=engines, resume=resume, command=command, stages=stages)
    show(report)
    console.print(f"report: {out / 'report.html'} and {out / 'report.json'}; the best level's bundle: {out / 'bundle'}")
    emit(report.model_dump(mode="json"), json_path)


def parse_levels(text: str) -> tuple[float, ...]:
    """Return the sparsity targets in ``0,0.5,0.7``; 0, the dense network, is always there and may be left out."""
    try:
        values = tuple(float(word) for word in words(text) or ())
    except ValueError:
        raise InputError(f"--levels takes numbers such as 0.5,0.7,0.9, not '{text}'.") from None
    return tuple(value for value in values if value != 0)


def show(report: Report) -> None:
    """Print one line per level."""
    backends = report.backends
    rows = table(
        report.title,
        "level",
        "trunk removed",
        "groups zero",
        "delta_m",
        "FLOP ratio",
        *(f"{b} [ms]" for b in backends),
        "certificate",
    )
    number: Callable[[float | None, str], str] = lambda value, form: "-" if value is None else format(value, form)  # noqa: E731
    for level in report.levels:
        timings = [
            f"{level.latency_ms[b].median:.2f} ({level.latency_ms[b].p10:.2f}-{level.latency_ms[b].p90:.2f})"
            for b in backends
        ]
        proof = "-" if level.certificate is None else number(level.certificate.max_rel_error, ".1e")
        rows.add_row(
            level.name,
            f"{level.sparsity:.1%}",
            number(level.group_sparsity, ".1%"),
            number(level.delta_m, "+.2f"),
            number(level.flop_ratio, ".2f"),
            *timings,
            proof,
        )
    console.print(rows)
