"""What a run writes while it trains: metrics.jsonl for machines, TensorBoard events for people."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from slimtask.documents import parse_json
from slimtask.errors import InputError
from slimtask.files import read_text, write_text

MOST_HISTORY_BYTES = 2**30


class History:
    """Appends one JSON object a record to ``metrics.jsonl`` and the same scalars to TensorBoard.

    On resuming, records from ``first_step`` on (and a line cut off by a kill) are dropped: they will be written again.
    Of several processes all but one keep silent (``write`` False).
    """

    def __init__(self, folder: Path, first_step: int = 0, *, write: bool = True) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._write = write
        if not write:
            return
        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            kept = [record for record in read_history(self.path) if record["step"] < first_step]
            write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = self.path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def record(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """Write the scalars in ``values`` (nested dicts allowed) for ``step``; ``kind`` is train or val."""
        if not self._write:
            return
        flat = {name: value if math.isfinite(value) else None for name, value in _flatten(values)}
        self._file.write(json.dumps({"step": step, "kind": kind, **flat}) + "\n")
        self._file.flush()
        for name, value in flat.items():
            if value is not None:
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush and close the files."""
        if not self._write:
            return
        self._file.close()
        self._events.close()


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics.jsonl; a last line cut off in the middle is left out.

    Raises InputError, which names the line, where another one is no record.
    """
    lines = read_text(path, "metrics", MOST_HISTORY_BYTES).splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line, f"line {number} of '{path}'")
        except InputError:
            if number < len(lines):
                raise
            break
        if not (isinstance(record, dict) and isinstance(record.get("step"), int) and "kind" in record):
            raise InputError(f"line {number} of '{path}' is no record of a training run; move the file away.")
        records.append(record)
    return records


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    flat: list[tuple[str, float]] = []
    for key, value in values.items():
        flat += _flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else [(f"{prefix}{key}", float(value))]
    return flat
