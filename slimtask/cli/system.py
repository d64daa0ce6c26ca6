"""What the system refuses, as sentences of ours that are true: what, where, what is left, how to mend it."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slimtask.errors import InputError
from slimtask.files import file_in_the_way

_SAID = {
    errno.EACCES: ("is not yours to read or write", "mend its permissions or give another path"),
    errno.EPERM: ("is not yours to change", "mend its permissions or give another path"),
    errno.EROFS: ("lies where nothing can be written", "give another path"),
    errno.ENOENT: ("does not exist", "check the path"),
    errno.EISDIR: ("is a folder, where a file is needed", "give another path"),
    errno.ENOTDIR: ("is a file, where a folder is needed", "give another path"),
    errno.EEXIST: ("exists already", "choose another name or remove it first"),
    errno.ENOTEMPTY: ("exists already and holds files", "choose another name or remove it first"),
    errno.ENAMETOOLONG: ("has a name that is too long", "give a shorter one"),
    errno.ELOOP: ("is a link that leads back to itself", "mend the link"),
    errno.EFBIG: ("would be larger than files may be here", "raise the limit or give another path"),
    errno.EIO: ("cannot be read or written, the device reports a fault", "check the disk"),
    errno.EBUSY: ("is in use", "run the command again later"),
    errno.ETXTBSY: ("is in use", "run the command again later"),
    errno.EXDEV: ("lies on another file system than its folder", "give another path"),
}
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def refusals(arguments: Mapping[str, Any]) -> Iterator[None]:
    """Turn what the system refuses a verb with these ``arguments`` into an InputError of one sentence."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(of_the_system(error, left(arguments))) from error


def left(arguments: Mapping[str, Any]) -> str:
    """Return what a verb that was cut short leaves, as far as that can be told for all verbs; "" if it cannot."""
    if "out" in arguments and arguments["out"] is None:  # a place that the verb chooses
        return ""
    places = [arguments[name] for name in ("out", "plot", "json_path") if arguments.get(name) is not None]
    there = [f"'{place}'" for place in places if _exists(place)]
    return f"{' and '.join(there)} stays as it is" if there else "nothing was written"


def of_the_system(error: OSError, remains: str = "") -> str:
    """Return the sentence for what the system refused; ``remains`` says what is left after a full disk."""
    name = error.filename if isinstance(error.filename, str | bytes) else ""  # a number is an open file's
    name = name.decode(errors="backslashreplace") if isinstance(name, bytes) else name
    if error.errno in _FULL:
        full = "the disk is full" if error.errno == errno.ENOSPC else "the disk quota is used up"
        where = f" at '{name}'" if name else ""
        return f"{full}{where}; make room and run the command again{f', {remains}' if remains else ''}."
    blocked = file_in_the_way(name) if name and error.errno in (errno.EEXIST, errno.ENOTDIR) else None
    if blocked is not None:
        return f"'{blocked}' is a file, not a folder; give another path."
    if error.errno in _SAID:
        what, how = _SAID[error.errno]
        return f"'{name}' {what}; {how}." if name else f"a file that is needed {what}; {how}."
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many files are open at once; raise the limit (ulimit -n) and run the command again."
    if error.errno == errno.ENOMEM:
        return "the memory does not suffice; free some, or take a smaller network, input or batch."
    said = (error.strerror or str(error)).strip().splitlines() or [type(error).__name__]
    where = f" at '{name}'" if name else ""
    return f"the system refuses it{where}: {said[0][:200].rstrip('.').lower()}; check the path and its permissions."


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:
        return False
