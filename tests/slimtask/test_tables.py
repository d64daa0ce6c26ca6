"""Whatever the width, every name and every number of a table is there as a whole."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from slimtask.tables import Sheet

FILE = "weights_of_everything.bin"
ROWS = (
    ("fused.onnx", "onnx", "10,178,123", "-", "1.92x [1.80, 2.03]"),
    ("segmentation.onnx", "onnx", "1,234", "", "0.98x [0.91, 1.00]"),
    (FILE, "weights of the graphs", "98,765,432,109", "-", "-"),
)


def printed(width: int, rows: tuple[tuple[str, ...], ...] = ROWS) -> str:
    sheet = Sheet(
        title="Files",
        headings=("file", "backend", "bytes", "targets", "speed-up"),
        left=2,
        caption="A caption.",
    )
    for row in rows:
        sheet.add_row(*row)
    console = Console(file=io.StringIO(), width=width, emoji=False)
    console.print(sheet)
    return console.file.getvalue()


def column(text: str, heading: str) -> list[str]:
    """Return the lines of a column, borders and blanks removed."""
    head = next(line for line in text.splitlines() if heading in line)
    start = head[: head.index(heading)].count("┃")
    return [line.split("│")[start].strip() for line in text.splitlines() if line.startswith("│")]


@pytest.mark.parametrize("width", [30, 40, 60, 70, 80, 100, 200])
def test_nothing_is_cut_at_any_width(width: int) -> None:
    text = printed(width)
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    for word in ("fused.onnx", "segmentation.onnx", "10,178,123", "98,765,432,109", "1.92x", "1.80", "2.03", "1,234"):
        assert word in text
    assert FILE in text or "".join(column(text, "file")).endswith(FILE)


def test_columns_without_content_are_dropped_at_every_width() -> None:
    assert "targets" not in printed(200) + printed(40)
    filled = (*ROWS, ("a.engine", "tensorrt", "5", "sm_90", ""))
    assert "targets" in printed(200, filled)
    assert "sm_90" in printed(40, filled)


def test_where_there_is_room_a_row_is_a_line() -> None:
    (line,) = (line for line in printed(200).splitlines() if FILE in line)
    assert [cell.strip() for cell in line.split("│")[1:-1]] == [FILE, "weights of the graphs", "98,765,432,109", "-"]


def test_columns_break_between_words_first() -> None:
    assert [line for line in column(printed(76), "backend") if line][-2:] == ["weights of the", "graphs"]


def test_what_has_no_rows_shows_its_headings() -> None:
    assert all(heading in printed(80, ()) for heading in ("file", "targets", "speed-up"))


def test_brackets_in_names_stand_as_they_are() -> None:
    for width in (40, 160):
        text = printed(width, (("blocks.[red].x", "a[b]", "[/b]", "", ""),))
        assert all(name in text for name in ("blocks.[red].x", "a[b]", "[/b]"))
