"""What a verb runs in: variables that others set, streams that lack letters, talkative libraries, signals."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType

from slimtask.errors import InputError

_NUMBER = re.compile(r"\d+(,\d+)*\Z")
_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
_NUMBERS = (
    *_RANKS, "GROUP_RANK", "NODE_RANK", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "JSM_NAMESPACE_RANK",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip
"""Variables that libraries take for numbers while they are imported."""
_TORCHRUN = "TORCHELASTIC_RUN_ID"
_FATAL = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(BaseException):
    """A signal asked the process to end; no ``except Exception`` of a library's or the user's holds it up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_status(self) -> int:
        """Return what a shell reports of a process that the signal ended."""
        return 128 + self.number


def speaks_for_all() -> bool:
    """Return whether this process speaks for all: of those that torchrun started only the first one does."""
    return _TORCHRUN not in os.environ or os.environ.get("RANK", "0") == "0"


@contextmanager
def settled(*, debug: bool = False) -> Iterator[None]:
    """Make the surroundings such that verbs work and nobody but they (and the user's own code) speaks to the user.

    With ``debug`` libraries may speak. Raises InputError for what `torchrun` would have set otherwise.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a letter that it cannot say becomes \\xe9, not an error
            stream.reconfigure(errors="backslashreplace")
    _settle_variables()
    with ExitStack() as stack:
        if not debug:
            stack.enter_context(_apart_from_libraries())
            stack.enter_context(silenced())
        stack.enter_context(_terminable())
        yield


@contextmanager
def silenced() -> Iterator[None]:
    """Keep the warnings and the log lines of libraries from the user; slimtask's own warnings become one sentence."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print(f"slimtask: warning: {message}", file=sys.stderr)  # as it is now: a bar may watch over it

    disabled = logging.root.manager.disable
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.resetwarnings()
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", module=r"slimtask\.")
            warnings.showwarning = show
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def _apart_from_libraries() -> Iterator[None]:
    """Let what Python writes to standard error reach the user, and nothing that C or C++ code writes there itself.

    ONNX Runtime, say, logs before anything can tell it not to. Where standard error is no file of its own, in tests,
    everything stays as it is.
    """
    ours, kept = sys.stderr, 2
    try:
        if ours.fileno() != kept:
            raise OSError
        copy = os.dup(kept)
    except (OSError, ValueError, AttributeError):
        yield
        return
    ours.flush()
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, kept)
    os.close(sink)
    sys.stderr = os.fdopen(copy, "w", encoding=ours.encoding, errors="backslashreplace", buffering=1)
    try:
        yield
    finally:
        with suppress(OSError):  # the reader may have left
            sys.stderr.flush()
        os.dup2(copy, kept)
        sys.stderr = ours


@contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into ``Terminated``, so that what is half-written goes; not in forked processes."""
    theirs = {} if threading.current_thread() is not threading.main_thread() else {
        number: signal.SIG_DFL for number in _FATAL if signal.getsignal(number) is signal.SIG_DFL
    }  # fmt: skip
    for number in theirs:
        signal.signal(number, _terminate)
    try:
        yield
    finally:
        for number, handler in theirs.items():
            signal.signal(number, handler)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated(number)


def _as_they_were() -> None:
    """In a forked process: signals end it at once, for its parent tells what is left and tidies up."""
    for number in _FATAL:
        if signal.getsignal(number) is _terminate:
            signal.signal(number, signal.SIG_DFL)


def _settle_variables() -> None:
    os.environ["MPLBACKEND"] = "agg"  # nothing is shown in windows, and a foreign one may not be here
    bad = [name for name in _NUMBERS if name in os.environ and not _NUMBER.match(os.environ[name])]
    if _TORCHRUN in os.environ:
        lacking = next((name for name in _RANKS if name in bad or name not in os.environ), None)
        if lacking is not None:
            value = os.environ.get(lacking)
            said = "not set" if value is None else f"'{value}', not a number"
            raise InputError(f"{lacking} is {said}, although {_TORCHRUN} is set; start the processes with torchrun.")
    for name in bad:  # of somebody else's: a library would fail on it
        del os.environ[name]


_after_fork: Callable[..., None] | None = getattr(os, "register_at_fork", None)
if _after_fork is not None:
    _after_fork(after_in_child=_as_they_were)
