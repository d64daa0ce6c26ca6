"""Files that nothing may open, watched by the kernel, whichever library would read them."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

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
