"""How much memory a piece of work takes: the resident set of this process, sampled while the work runs."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType


class PeakMemory:
    """Context whose ``peak_bytes`` is the most that the process grew above what it held on entry.

    A thread reads the resident set every ``interval_ms``; what lives shorter than that goes unseen.
    """

    def __init__(self, interval_ms: float = 2.0) -> None:
        self._interval_seconds = interval_ms / 1e3
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_bytes = 0

    def __enter__(self) -> PeakMemory:
        self._start_bytes = resident_bytes()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._done.wait(self._interval_seconds):
            self._sample()

    def _sample(self) -> None:
        self.peak_bytes = max(self.peak_bytes, resident_bytes() - self._start_bytes)


def resident_bytes() -> int:
    """Return the memory of this process that is resident now; 0 where the system does not tell (no /proc)."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
