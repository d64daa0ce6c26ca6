"""Run code of the user's in a process apart: what it does to itself, to caches and to globals dies with the process.

A forked process holds the very objects of its parent, so it may switch their modes, move them to another device, fill
their caches and overwrite their weights, while the parent's stay as they are. Where a process cannot be forked
(Windows, macOS), or a tensor lies on another device than the CPU, a copy is what stands between the two.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable
from itertools import islice
from typing import Any, TypeVar

from slimtask.errors import SlimtaskError

T = TypeVar("T")
_LENGTH = 8
FORKS = sys.platform == "linux"


def apart(function: Callable[[], T]) -> T:
    """Return ``function()``, run in a forked process of one thread where the platform has them, here otherwise.

    The answer must be data (it is pickled). SlimtaskErrors pass; any other exception becomes a RuntimeError with its
    type and first line, and so does a process that dies.
    """
    if not FORKS:
        return function()
    # PyTorch imports it on first use (a device context, a random call); every child would do so again, for seconds
    import torch._dynamo  # noqa: F401

    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads: the fork runs on one and touches none of the others
        child = os.fork()
    if child == 0:
        _answer(function, reader, writer)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as pipe:  # not to its end: a process that user code started may hold it open
            answer = pipe.read(int.from_bytes(pipe.read(_LENGTH), "big"))
    except BaseException:
        with contextlib.suppress(OSError):
            os.kill(child, 9)
        raise
    finally:
        status = _waited(child)
    if not answer:
        raise RuntimeError(f"the process that ran it {_ended(status)}")
    try:
        good, value, imported = pickle.loads(answer)  # written by this module, in a process forked from this one
    except Exception as error:
        raise RuntimeError(f"its answer cannot be read ({first_line(error)})") from error
    for name in imported:  # else every further process would read them anew
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    if good:
        return value  # type: ignore[no-any-return]
    raise value


def _waited(child: int) -> int:
    """Return the status with which a process ended, 0 where the caller's process does not keep such."""
    try:
        return os.waitpid(child, 0)[1]
    except ChildProcessError:  # SIGCHLD is ignored
        return 0


def _ended(status: int) -> str:
    """Return in words how a process ended that gave no answer."""
    code = os.waitstatus_to_exitcode(status)
    return f"was killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"ended with exit status {code}"


def _answer(function: Callable[[], Any], reader: int, writer: int) -> None:
    """Write the pickled answer and end the process; nothing of the parent's is flushed or torn down twice."""
    try:
        import torch

        gc.disable()  # a collection would touch, and so copy, every object of the parent
        os.close(reader)
        torch.set_num_threads(1)  # the threads of the parent are not here, and waiting for them would never end
        before = len(sys.modules)  # their number alone: looking at each would copy the pages that they lie in
        try:
            answer = _pickled(True, function(), before)
        except SlimtaskError as error:
            answer = _pickled(False, error, before)
        except BaseException as error:
            answer = _pickled(False, RuntimeError(f"{type(error).__name__}: {first_line(error)}"), before)
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(len(answer).to_bytes(_LENGTH, "big") + answer)
    finally:
        os._exit(0)


def _pickled(good: bool, value: Any, before: int) -> bytes:
    new = islice(sys.modules, before, None) if len(sys.modules) > before else ()
    imported = [name for name in new if name.startswith("torch.")]
    return pickle.dumps((good, value, imported))


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, its type if it says nothing; at most 300 characters."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # what it says is code of the user's, too
        lines = []
    return lines[0][:300] if lines else type(error).__name__
