"""A sub-task's delta in a table: what it changes of which parameter, and what it weighs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slimtask.cli.common import console, table


def show_delta(path: Path) -> dict[str, Any]:
    """Print the densities and the size of the delta in ``path`` and return them as JSON."""
    from slimtask.compress.structures.delta import Delta

    delta = Delta.load(path)
    size, densities = delta.size(), delta.densities()
    rows = table(f"What '{delta.task}' changes of its base", "parameter", "pattern", "shape", "units", "changed")
    for name, change in delta.changes.items():
        units = f"{len(change.kept)} of {change.pattern.units(change.shape)}"
        rows.add_row(name, change.pattern.kind, str(list(change.shape)), units, f"{densities[name]:.1%}")
    console.print(rows)
    console.print(
        f"{delta.density:.2%} of these entries change: {size.values_bytes + size.index_bytes:,} bytes instead of "
        f"{size.dense_bytes:,}"
    )
    execution = delta.execution
    rest = "" if execution.rows is None else f", {execution.rows:.0%} of the tokens"
    dropped = f", differences dropped at {len(execution.thresholds)} layers" if execution.thresholds else ""
    console.print(f"feed: {execution.feed}{rest}{dropped}", markup=False)
    return {
        "schema": 1,
        "task": delta.task,
        "base": delta.base,
        "density": delta.density,
        "densities": densities,
        "size": vars(size),
        "execution": execution.model_dump(mode="json"),
    }
