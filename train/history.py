"""What a run writes while it trains: metrics.jsonl for machines, TensorBoard events for people."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimtask.files import write_text
from slimtask.train.trackers import Tracker


class History:
    """Appends one JSON object a record to ``metrics.jsonl`` and the same scalars to TensorBoard and to ``trackers``.

    On resuming, records from ``first_step`` on (and a line cut off by a kill) are dropped: they will be written again.
    Of several processes all but one keep silent (``write`` False).
    """

    def __init__(
        self, folder: Path, first_step: int = 0, *, write: bool = True, trackers: Sequence[Tracker] = ()
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._trackers = trackers
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
        for tracker in self._trackers:
            tracker.log(step, {f"{kind}/{name}": value for name, value in flat.items() if value is not None})

    def close(self) -> None:
        """Flush and close the files, and end the trackers' runs."""
        if not self._write:
            return
        self._file.close()
        self._events.close()
        for tracker in self._trackers:
            tracker.close()


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics.jsonl; a last line cut off in the middle is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    flat: list[tuple[str, float]] = []
    for key, value in values.items():
        flat += _flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else [(f"{prefix}{key}", float(value))]
    return flat
