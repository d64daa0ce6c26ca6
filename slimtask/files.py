"""Files that are either whole or absent: every write goes to a temporary name, is fsynced, then renamed."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from slimtask.documents import parse_json, parse_yaml
from slimtask.errors import InputError

MOST_TEXT_BYTES = 2**28
MOST_YAML_BYTES = 2**18  # a hundred recipes; a second of parsing
_PARTIAL = ".partial-"
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how Rust tells it: a SafetensorError for a full disk is no OSError


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is fsynced and renamed, on failure it is deleted.

    So are, on failure, the folders that were made for it.
    What the system refuses, a full disk say, is an OSError that names ``path``, also where a library says it otherwise.
    """
    path = Path(path)
    missing = [each for each in path.parents if not each.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_partials(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}{_PARTIAL}", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        for folder in missing:
            with suppress(OSError):  # something else lies there by now
                folder.rmdir()
        code = _refused(error)
        if code is None:
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


def _refused(error: BaseException) -> int | None:
    """Return the number of what the system refused in a file that ``error`` does not name; None if it is another."""
    if isinstance(error, OSError):
        return error.errno if error.filename is None else None
    code = _OS_ERROR.search(str(error))
    return None if code is None else int(code[1])


@contextmanager
def atomic_directory(path: Path | str) -> Iterator[Path]:
    """Yield a temporary directory that becomes ``path`` on success and vanishes on failure.

    Raises InputError at once if ``path`` exists, and at the end if it does by then: nothing is ever overwritten.
    """
    path = Path(path)
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_partials(path)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}{_PARTIAL}", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for file in (*temporary.rglob("*"), temporary):
            _fsync(file)
        try:
            temporary.rename(path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise InputError(_taken(path)) from None
            raise
        _fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(path: Path | str) -> None:
    """Raise InputError if the output ``path`` exists already, or cannot, being in what is a file."""
    if Path(path).exists():
        raise InputError(f"the output '{path}' exists already; choose another name or remove it first.")
    blocked = file_in_the_way(path)
    if blocked is not None:
        raise InputError(f"there can be no output '{path}', as '{blocked}' is a file, not a folder; give another path.")


def file_in_the_way(path: Path | str) -> Path | None:
    """Return what of ``path`` would have to be a folder and is none, itself included; None if nothing is."""
    return next((each for each in (Path(path), *Path(path).parents) if each.exists() and not each.is_dir()), None)


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` to ``path`` atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON to ``path`` atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def check_regular(path: Path | str, what: str, most_bytes: int | None = None) -> int:
    """Return the size in bytes of the regular file at ``path``, for a library that opens it by itself.

    Links are followed. Raises InputError, which calls the file ``what``, for what is absent, a folder, a pipe, a
    device, or has more than ``most_bytes`` (None: what this machine can hold).
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise InputError(f"{what} '{path}' does not exist; check the path.") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in a name
        raise InputError(_unreadable(path, what, error)) from None
    return _sane_size(status, path, what, most_bytes)


@contextmanager
def open_regular(path: Path | str, what: str, most_bytes: int | None = None) -> Iterator[BinaryIO]:
    """Yield the regular file at ``path``, opened to read bytes; every file that slimtask did not just write is so read.

    Nothing else is opened, so that nothing hangs. Raises InputError as ``check_regular`` does.
    """
    check_regular(path, what, most_bytes)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise InputError(_unreadable(path, what, error)) from None
    with os.fdopen(handle, "rb") as file:
        _sane_size(os.fstat(handle), path, what, most_bytes)  # it may be another one by now
        yield file


def read_bytes(path: Path | str, what: str, most_bytes: int | None = None) -> bytes:
    """Return the content of the regular file at ``path``; InputError as ``check_regular`` raises it."""
    with open_regular(path, what, most_bytes) as file:
        try:
            return file.read()
        except OSError as error:
            raise InputError(_unreadable(path, what, error)) from None


def read_text(path: Path | str, what: str, most_bytes: int = MOST_TEXT_BYTES) -> str:
    """Return the UTF-8 text of ``path``; ``what`` names the file in the InputError if it cannot be read."""
    try:
        return read_bytes(path, what, most_bytes).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise InputError(_unreadable(path, what, error)) from None


def read_json(path: Path | str, what: str, most_bytes: int = MOST_TEXT_BYTES) -> Any:
    """Return the parsed JSON of ``path``; ``what`` names the file in the InputError if it is not JSON."""
    return parse_json(read_text(path, what, most_bytes), f"{what} '{path}'")


def read_yaml(path: Path | str, what: str) -> Any:
    """Return the parsed YAML of ``path``; ``what`` names the file in the InputError if it is not YAML."""
    return parse_yaml(read_text(path, what, MOST_YAML_BYTES), f"{what} '{path}'")


def _sane_size(status: os.stat_result, path: Path | str, what: str, most_bytes: int | None) -> int:
    most = MOST_BYTES if most_bytes is None else most_bytes
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
        raise InputError(f"{what} '{path}' is {kind}, not a file; check the path.")
    if status.st_size > most:
        raise InputError(
            f"{what} '{path}' has {status.st_size:,} bytes, more than the {most:,} that are read of such a file; "
            "give a smaller one."
        )
    return status.st_size


def _unreadable(path: Path | str, what: str, error: Exception) -> str:
    why = error.strerror if isinstance(error, OSError) else error
    kind = "text" if isinstance(error, UnicodeDecodeError) else ""
    return f"{what} '{path}' cannot be read ({why}); give a readable {kind} file.".replace("  ", " ")


def _memory_bytes() -> int:
    """Return the size of this machine's memory, without a limit where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**63


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


MOST_BYTES = min(2**35, _memory_bytes())
"""What is read of a file of weights: 8 billion float32 numbers, and not more than memory holds."""


def _sweep_partials(path: Path) -> None:
    """Remove what a killed earlier write of the same target left behind, unless its writer may still be alive."""
    for stale in path.parent.glob(f".{glob.escape(path.name)}{_PARTIAL}*"):
        if _age_seconds(stale) > 3600:
            shutil.rmtree(stale, ignore_errors=True) if stale.is_dir() else stale.unlink(missing_ok=True)


def _age_seconds(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def new_files(path: Path | str) -> Iterator[Path]:
    """Yield the name of ``path`` in a temporary folder beside it; all that is written there moves beside ``path``.

    All or nothing, and only to names that nobody has taken meanwhile: two writers of one output cannot both succeed.
    Raises InputError to the one who comes second, whose files vanish.
    """
    path = Path(path)
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_partials(path)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}{_PARTIAL}", dir=path.parent))
    moved: list[Path] = []
    try:
        yield temporary / path.name
        for file in sorted(temporary.iterdir(), key=lambda each: each.name == path.name):  # what names others last
            _move_new(file, path.parent / file.name)
            moved.append(path.parent / file.name)
        _fsync(path.parent)
    except BaseException:
        for file in moved:
            file.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_folder(path: Path | str, *, new: bool) -> None:
    """Make a folder that grows, with its parents. Raises InputError if it is to be ``new`` and another run made it."""
    try:
        Path(path).mkdir(parents=True, exist_ok=not new)
    except FileExistsError:
        raise InputError(_taken(Path(path))) from None


def refuse_unwritable(path: Path | str) -> None:
    """Raise InputError unless a file or folder ``path`` can be made; what is tried leaves nothing behind."""
    path = Path(path)
    try:
        blocked = file_in_the_way(path.parent)
        if blocked is not None:
            raise InputError(f"there can be no '{path}', as '{blocked}' is a file, not a folder; give another path.")
        path.lstat()  # a name that is too long cannot be looked up
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(f"there can be no '{path}' ({_reason(error)}); give another path.") from None
    folder = next(each for each in (path.absolute(), *path.absolute().parents) if each.is_dir())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"'{path}' cannot be written, as nothing can in '{folder}' ({_reason(error)}); give another path."
        ) from None


def _move_new(file: Path, target: Path) -> None:
    """Move a file to a name that nobody has, else raise InputError; on one file system, in one step."""
    try:
        os.link(file, target)
    except FileExistsError:
        raise InputError(_taken(target)) from None
    except OSError:  # a file system without hard links: the name is taken first, then filled
        try:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            raise InputError(_taken(target)) from None
        file.replace(target)


def _taken(path: Path) -> str:
    return f"'{path}' was written by another run meanwhile and stays as that left it; give another path and run again."


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
