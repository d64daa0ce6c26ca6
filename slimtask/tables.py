"""Tables for people, of which no name and no number is ever cut, however narrow the terminal or the log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

_EMPTY = ("", "-")
_NARROWEST = 20  # to which a column may come down whose words are longer, paths say, which are then folded
_BORDERS = 3  # what a column takes beside its content; one more character closes the table


@dataclass(kw_only=True)
class Sheet:
    """A Rich renderable: a table where its columns fit, else its rows as blocks of ``heading: value``.

    Columns that no row fills are left out, the first one excepted. Columns break between words, and inside words only
    where those are longer than 20 characters. The first ``left`` columns are left-aligned, the others right-aligned.
    """

    title: str
    headings: Sequence[str]
    left: int = 1
    caption: str = ""
    rows: list[tuple[Text, ...]] = field(default_factory=list)

    def add_row(self, *cells: str | Text) -> None:
        """Add a row as it stands, brackets in names too; what is missing on its right stays empty."""
        empty = [""] * (len(self.headings) - len(cells))
        self.rows.append(tuple(cell if isinstance(cell, Text) else Text(cell) for cell in (*cells, *empty)))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | Text]:
        """Yield the table, or the blocks."""
        kept = [i for i, _ in enumerate(self.headings) if i == 0 or not self._is_empty(i)]
        columns = [[Text(self.headings[i]), *self._cells(i)] for i in kept]
        widths = _widths(columns, options.max_width - 1 - _BORDERS * len(kept))
        if widths is None:
            yield from self._blocks(columns)
            return
        made = Table(
            title=Text(self.title),
            caption=Text(self.caption) if self.caption else None,
            title_justify="left",
            caption_justify="left",
            show_lines=any(cell.cell_len > widths[0] for cell in columns[0]),
        )
        for i, width in zip(kept, widths, strict=True):
            made.add_column(
                Text(self.headings[i]), justify="left" if i < self.left else "right", width=width, overflow="fold"
            )
        for cells in zip(*(cells[1:] for cells in columns), strict=True):
            made.add_row(*cells)
        yield made

    def _blocks(self, columns: Sequence[Sequence[Text]]) -> Iterator[Text]:
        yield Text(self.title, style="table.title", overflow="fold")
        for row in range(1, len(self.rows) + 1):
            yield columns[0][row]
            for heading, *cells in columns[1:]:
                if cells[row - 1].plain not in _EMPTY:
                    yield Text.assemble("  ", heading, ": ", cells[row - 1], overflow="fold")
        if self.caption:
            yield Text(self.caption, style="table.caption", overflow="fold")

    def _cells(self, column: int) -> list[Text]:
        return [row[column] for row in self.rows]

    def _is_empty(self, column: int) -> bool:
        return bool(self.rows) and all(cell.plain in _EMPTY for cell in self._cells(column))


def _widths(columns: Sequence[Sequence[Text]], available: int) -> list[int] | None:
    """Return the columns' widths, the widest ones reduced until all fit; None where their words do not fit."""
    widths = [max(cell.cell_len for cell in cells) for cells in columns]
    least = [max(_longest_word(cell) for cell in cells) for cells in columns]
    while sum(widths) > available:
        wider = [i for i, width in enumerate(widths) if width > least[i]]
        if not wider:
            return None
        widths[max(wider, key=lambda i: widths[i])] -= 1
    return widths


def _longest_word(cell: Text) -> int:
    return min(_NARROWEST, max((Text(word).cell_len for word in cell.plain.split()), default=0))
