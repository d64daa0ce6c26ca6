"""Times measured on this machine and kept between runs: where, of what processor, and what if they cannot be kept.

A store is a folder of JSON files, one for each device. Files are written whole, beside what is in them already.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from slimtask.files import write_json

_IN_MEMORY: dict[Path, Any] = {}


def cache_folder(name: str = "", variable: str = "") -> Path:
    """Return the folder that the environment ``variable`` names, else ``name`` in slimtask's own.

    That is $XDG_CACHE_HOME/slimtask, by default ~/.cache/slimtask.
    """
    named = os.environ.get(variable)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slimtask" / name


def in_memory(path: Path) -> Any:
    """Return what would be in the file, had it been possible to write it; None if it was."""
    return _IN_MEMORY.get(path)


def keep(path: Path, content: Any, variable: str) -> None:
    """Write ``content`` as JSON; where that cannot be, a home that is read-only say, keep it for this process.

    A warning says so once, and that the environment ``variable`` may name another folder.
    """
    if path not in _IN_MEMORY:
        try:
            write_json(path, content)
            return
        except OSError as error:
            warnings.warn(
                f"the measured times cannot be kept in '{path}' ({error.strerror or error}), so the next run measures "
                f"them again; let {variable} name a folder that can be written.",
                stacklevel=2,
            )
    _IN_MEMORY[path] = content


def version_of(distribution: str) -> str | None:
    """Return the installed version of a distribution, None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def cpu_name() -> str:
    """Return the processor's model name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown CPU"
