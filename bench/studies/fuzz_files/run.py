"""One command of slimtask in this process: what it printed, how it ended, how long it took, what it opened."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import struct
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended: exit status (-1 after a traceback), what it printed, the traceback, and its seconds."""

    status: int
    output: str
    error: str
    trace: str = ""
    seconds: float = 0.0


class TooLong(BaseException):
    """The command ran longer than it may; no Exception, so that nothing takes it for its own."""


def run_words(words: Sequence[str], folder: Path, limit: float | None = None) -> Ended:
    """Return how ``slimtask WORDS`` ended in ``folder``; TooLong is told as a status of -2 after ``limit`` seconds."""
    from slimtask.cli.app import main

    out, err = _Stream(), _Stream()
    started, status, trace = time.monotonic(), 0, ""
    before, sys.argv = sys.argv, ["slimtask", *words]
    place = Path.cwd()
    try:
        os.chdir(folder)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _limited(limit):
            main()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except TooLong:
        status, trace = -2, traceback.format_exc()
    except BaseException:
        status, trace = -1, traceback.format_exc()
    finally:
        os.chdir(place)
        sys.argv = before
    seconds = round(time.monotonic() - started, 2)
    return Ended(status=status, output=out.getvalue(), error=err.getvalue(), trace=trace, seconds=seconds)


class _Stream(io.StringIO):
    """Text that may hold anything, as a terminal's."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        return super().write(text.encode("utf-8", "backslashreplace").decode("utf-8"))


@contextlib.contextmanager
def _limited(limit: float | None) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooLong

    if limit is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


_OPENED = 0x20  # IN_OPEN


class Watch:
    """Tells which of some files were opened since it was last asked (inotify, Linux)."""

    def __init__(self, files: dict[str, Path]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._handle = libc.inotify_init1(os.O_NONBLOCK)
        if self._handle < 0:
            raise OSError(ctypes.get_errno(), "inotify cannot be had here")
        self._names = {}
        for name, path in files.items():
            self._names[libc.inotify_add_watch(self._handle, os.fsencode(path), _OPENED)] = name

    def opened(self) -> list[str]:
        """Return the names of the files opened since the last call."""
        try:
            events = os.read(self._handle, 65536)
        except BlockingIOError:
            return []
        found, place = [], 0
        while place < len(events):
            number, _, _, length = struct.unpack_from("iIII", events, place)
            found.append(self._names[number])
            place += 16 + length
        return sorted(set(found))

    def close(self) -> None:
        """Watch no more."""
        os.close(self._handle)
