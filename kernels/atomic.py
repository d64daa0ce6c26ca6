"""Files that are whole or absent; imports nothing that a machine with PyCUDA alone lacks."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path


def check_folder(path: Path) -> None:
    """Raise OSError, in one sentence, if ``path`` is no folder and none can be made there; nothing is made."""
    above = next(each for each in (path.absolute(), *path.absolute().parents) if os.path.lexists(each))
    if not above.is_dir():
        raise NotADirectoryError(f"'{above}' is no folder; give one")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"nothing can be written in '{above}'; give another folder")


def refusal(error: OSError) -> str:
    """Return in one sentence what the system refused, where, and how to mend it."""
    if error.errno is None:
        return str(error)
    where = f" at '{error.filename}'" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"the disk is full{where}; make room and run the command again."
    return f"{os.strerror(error.errno)}{where}; check the path and its permissions."


def write_whole(path: Path, content: bytes) -> None:
    """Write ``content`` beside ``path`` and rename it once it is on the disk; its folders are made if need be.

    Where that fails nothing is left behind, and an OSError names ``path``.
    """
    missing = [each for each in path.parents if not each.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, content)
    except BaseException as error:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def _write(path: Path, content: bytes) -> None:
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
