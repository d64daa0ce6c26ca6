"""The result of the measurement: the JSON, the figures that were to be reached, and a Markdown table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slimtask.bench.studies.harness import lines_of
from slimtask.bench.timing.environment import environment

Row = Mapping[str, Any]
EXACT = 1e-5


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A ``key`` (speed-up over T dense models) that one of the rows ``of`` it must reach, with at most ``error``."""

    what: str
    of: Callable[[Row], bool]
    speedup: float
    error: float | None = EXACT
    key: str = "speedup"

    def judged(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return the goal with the fastest row that is exact enough; ``reached`` None if it was not measured."""
        meant = [row for row in rows if self.of(row) and row[self.key] is not None]
        found = [row for row in meant if self.error is None or row["max_rel_error"] <= self.error]
        best = max(found, key=lambda row: row[self.key], default=None)
        return {
            "what": self.what,
            "goal": self.speedup,
            "error_limit": self.error,
            "speedup": None if best is None else best[self.key],
            "max_rel_error": None if best is None else best["max_rel_error"],
            "reference": None if best is None else best["reference"],
            "reached": bool(best and best[self.key] >= self.speedup) if meant else None,
        }


def _vit(form: str, share: float) -> Callable[[Row], bool]:
    return lambda row: row["layer"] == "vit" and row["form"].startswith(form) and row["rows"] == share


GOALS = (
    Goal(
        what="MLP of ViT-B, 1024 tokens, T = 4, 5 % hidden-unit deltas",
        of=lambda row: (
            (row["model"], row["layer"], row["tokens"], row["tasks"], row["density"]) == ("ViT-B", "mlp", 1024, 4, 0.05)
        ),
        speedup=2.6,
    ),
    Goal(what="whole ViT-B, base-fed, 5 % hidden units and 1 of 12 heads", of=_vit("base-fed", 0.0), speedup=2.3),
    Goal(what="whole ViT-B, half the blocks shared, then own-fed", of=_vit("prefix, own-fed", 1.0), speedup=1.5),
    Goal(
        what="whole ViT-B, half the blocks shared, then 10 % changed rows (error stated, not limited)",
        of=_vit("prefix, rows", 0.1),
        speedup=2.0,
        error=None,
    ),
)


def result(
    rows: Sequence[Row], command: str, settings: Mapping[str, Any], left_out: Sequence[str], *, goals: Sequence[Goal]
) -> dict[str, Any]:
    """Return the JSON-ready result."""
    found = environment()
    return {
        "what": "Base and sub-tasks as sparse deltas against T dense models, one after another, in one interleaved run",
        "command": command,
        "settings": dict(settings),
        "goals": [goal.judged(rows) for goal in goals],
        "left_out": list(left_out),
        "rows": [dict(row) for row in rows],
        "versions": found["versions"],
        "machine": {key: value for key, value in found.items() if key != "versions"},
    }


def markdown(made: Mapping[str, Any], picture: str | None = None) -> str:
    """Return the result as a Markdown page: goals, table, what was compared, machine and versions."""
    lines = ["# Sub-tasks as sparse deltas", "", f"`{made['command']}`", "", f"{made['what']}.", ""]
    if made["goals"]:
        lines += [lines_of(_GOAL_HEADS, [_goal_cells(goal) for goal in made["goals"]]), ""]
    if picture:
        lines += [f"![speed-up over T dense models]({picture})", ""]
    lines += [lines_of(_HEADS, [_cells(row) for row in made["rows"]]), "", _NOTES, ""]
    if made["left_out"]:
        lines += [f"Not measured, for lack of time: {', '.join(made['left_out'])}.", ""]
    machine = made["machine"]
    settings = ", ".join(f"{name} {value}" for name, value in made["settings"].items())
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    lines += [f"{machine['cpu']}, {machine['cores']} cores, {settings}. {versions}.", ""]
    return "\n".join(lines)


_GOAL_HEADS = ("figure", "goal", "measured", "error", "reached")
_WHAT_HEADS = ("layer", "N", "T", "pattern", "density", "rows", "output")
_HEADS = (*_WHAT_HEADS, "ms (p10 to p90)", "dense ms", "batched ms", "speed-up", "over batched", "FLOP ratio", "error")
_NOTES = (
    "Times are medians of interleaved rounds in one process, thread spinning off; the speed-up is over T dense graphs "
    "run one after another, with its 95 % bootstrap interval; batched: all dense tasks in one graph of batched "
    "products, where there is one. T tasks: in linear layers, mlp and attention the base is computed besides them (one "
    "output more than the dense models), in block and vit it is one of them. Compact outputs hold the base's output "
    "and what differs from it, full ones a tensor for every task. Error: the largest difference over the largest "
    "value, against float64 or, for block and vit, what the JSON names under reference."
)


def _goal_cells(goal: Mapping[str, Any]) -> list[str]:
    reached = {True: "yes", False: "no", None: "not measured"}[goal["reached"]]
    return [goal["what"], f"{goal['goal']:g}x", _times(goal["speedup"]), _error(goal["max_rel_error"]), reached]


def _cells(row: Row) -> list[str]:
    form = f", {row['form']}" if "form" in row else ""
    return [
        f"{row['model']} {row['layer']}",
        str(row["tokens"]),
        str(row["tasks"]),
        f"{row['pattern']}{form}",
        f"{row['density']:.3g}",
        f"{row['rows']:g}",
        row["output"],
        f"{row['ms']:.2f} ({row['p10_ms']:.2f} to {row['p90_ms']:.2f})",
        f"{row['dense_ms']:.2f}",
        "" if row["batched_ms"] is None else f"{row['batched_ms']:.2f}",
        f"{row['speedup']:.2f} [{row['speedup_low']:.2f}, {row['speedup_high']:.2f}]",
        _times(row["speedup_over_batched"]),
        f"{row['flop_ratio']:.2f}",
        _error(row["max_rel_error"]),
    ]


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"
