"""`slimtask doctor`: what is installed here, what it can do, and what each missing piece would add."""

from __future__ import annotations

from rich.text import Text

from slimtask.cli.common import JsonOption, console, emit, table
from slimtask.cli.pieces import PIECES
from slimtask.tables import Sheet


def doctor_verb(json_path: JsonOption = None) -> None:
    """Say what is installed and what each missing piece would add.

    Example: slimtask doctor
    """
    from slimtask.bench.timing.backends import BACKENDS
    from slimtask.bench.timing.environment import environment
    from slimtask.measured import version_of

    facts = environment()
    console.print(table_of(facts))
    rows = table("Pieces", "piece", "version", "what it is for", "how to get it", words=True)
    pieces = []
    for piece in PIECES:
        version = next((v for v in map(version_of, piece.distributions) if v), None)
        name, how = piece.distributions[0], "" if version else piece.how
        rows.add_row(name, version or Text("missing", style="yellow"), piece.purpose, how)
        pieces.append({"name": name, "version": version, "purpose": piece.purpose, "how": piece.how})
    console.print(rows)
    timers = table("Backends to time on", "backend", "state", words=True)
    reasons = {name: backend.why_unavailable() for name, backend in BACKENDS.items()}
    for name, reason in reasons.items():
        timers.add_row(name, Text("ready", style="green") if reason is None else Text(reason, style="yellow"))
    console.print(timers)
    emit({"environment": facts, "pieces": pieces, "backends": reasons}, json_path)


def table_of(facts: dict[str, object]) -> Sheet:
    """Return the environment as a two-column table."""
    rows = table("Environment", "", "", words=True)
    for name, value in facts.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for key, one in inner:
            rows.add_row(f"{name} {key}".strip(), str(one))
    return rows
