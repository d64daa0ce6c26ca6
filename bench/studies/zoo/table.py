"""Rows of a study as a Markdown table: columns are functions of a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Cell = Callable[[Mapping[str, Any]], str]


def number(key: str, form: str) -> Cell:
    """Return the cell that shows the number under ``key``, a dash where there is none."""

    def cell(row: Mapping[str, Any]) -> str:
        value = row.get(key)
        return "-" if value is None or isinstance(value, str) else format(value, form)

    return cell


def text(key: str, longest: int = 200) -> Cell:
    """Return the cell that shows the text under ``key``, cut to ``longest`` characters, on one line."""
    return lambda row: " ".join(str(row.get(key, "")).split()).replace("|", "\\|")[:longest]


def table(columns: Mapping[str, Cell], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the Markdown table with a row for each of ``rows``."""
    cells = [[cell(row) for cell in columns.values()] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [[*columns], ["---"] * len(columns), *cells])


def facts(*found: Mapping[str, Any]) -> str:
    """Return machine and versions as the last section of a page."""
    lines = "\n".join(f"- {name}: {value}" for each in found for name, value in each.items())
    return f"## Machine and versions\n\n{lines}\n"
