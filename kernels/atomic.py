"""Files that are whole or absent; imports nothing that a machine with PyCUDA alone lacks."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def check_folder(path: Path) -> None:
    """Raise OSError, in one sentence, if ``path`` is no folder and none can be made there; nothing is made."""
    above = next(each for each in (path.absolute(), *path.absolute().parents) if os.path.lexists(each))
    if not above.is_dir():
        raise NotADirectoryError(f"'{above}' is no folder; give one")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"nothing can be written in '{above}'; give another folder")


def write_whole(path: Path, content: bytes) -> None:
    """Write ``content`` beside ``path`` and rename it once it is on the disk; the folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.partial-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
