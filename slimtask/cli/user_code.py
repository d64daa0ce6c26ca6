"""Telling an error in the user's own code (a network, a factory, a loss) from one in slimtask or a library."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

_STAGES = ("bench", "compress", "export", "kernels", "slimtask", "train")


def raised_in(error: BaseException) -> str | None:
    """Return "file, line N" of the innermost frame of the user's code that ``error`` went through, None without one."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.suffix == ".py" and path.is_file() and not any(path.resolve().is_relative_to(p) for p in _ours()):
            return f"{path.name}, line {frame.lineno}"
    return None


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, at most 300 characters."""
    return (str(error).strip().splitlines() or ["no reason given"])[0][:300].rstrip(".")


def _ours() -> list[Path]:
    """Return the folders of slimtask, of Python and of installed packages."""
    package = Path(__file__).resolve().parents[1]
    known = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return [package, *((package / stage).resolve() for stage in _STAGES), *(Path(path).resolve() for path in known)]
