"""Work in a process that is replaced when a piece of work hangs, kills it, or leaves it without its GPU.

A kernel that reads where it must not leaves its process unable to use the GPU ever after, and one that waits for
ever never returns: either would cost every later measurement.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

Say = Callable[[str], None]
"""Tells where the work is, so that what takes the process with it can be named."""

Work = Callable[..., Any]
"""Called with ``Say`` and its arguments; importable by name, as processes are spawned."""


class Lost(Exception):
    """The work took its process with it: ``at`` what it said last ("" if nothing), and how it ended."""

    def __init__(self, at: str, how: str) -> None:
        super().__init__(how)
        self.at = at


class Failed(Exception):
    """The work raised; the text is that of its error, and the process goes on."""


class Unusable(Exception):
    """Raised by work that finds its process of no more use."""


@runtime_checkable
class Runner(Protocol):
    """Calls pieces of work."""

    def run(self, work: Work, *arguments: Any, seconds: float) -> Any:
        """Return ``work(say, *arguments)``; raises Failed or Lost."""


class Here:
    """Calls work in this process, without a limit."""

    def run(self, work: Work, *arguments: Any, seconds: float) -> Any:
        """Return ``work(say, *arguments)``; raises Failed, or Lost if it raised Unusable."""
        said = [""]
        try:
            return work(said.append, *arguments)
        except Unusable as error:
            raise Lost(said[-1], reason(error)) from error
        except Exception as error:
            raise Failed(reason(error)) from error


class Isolated:
    """Calls work one after another in a process of its own, a new one whenever the last was lost."""

    def __init__(self) -> None:
        self._process: Any = None
        self._pipe: Any = None

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def run(self, work: Work, *arguments: Any, seconds: float) -> Any:
        """Return ``work(say, *arguments)``; arguments and result are pickled.

        Raises Failed if it raised, and Lost if it took longer than ``seconds`` (a new process's start included), ended
        its process, or raised Unusable.
        """
        end, at = time.monotonic() + seconds, ""
        if self._process is None:
            self._start()
        try:
            self._pipe.send((work, arguments))
            while self._pipe.poll(max(0.0, end - time.monotonic())):
                kind, value = self._pipe.recv()
                if kind == "at":
                    at = value
                elif kind == "lost":
                    self._end()
                    raise Lost(at, value)
                elif kind == "raised":
                    raise Failed(value)
                else:
                    return value
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise Lost(at, self._end(wait=5.0)) from None
        self._end()
        raise Lost(at, f"took longer than {seconds:.0f} s")

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a CUDA context does not survive a fork
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def _end(self, *, wait: float = 0.0) -> str:
        """Kill the process, after ``wait`` seconds in which it may end by itself, and return how it did."""
        if self._process is None:
            return ""
        self._process.join(wait)
        code = self._process.exitcode
        self._process.kill()
        self._process.join()
        self._pipe.close()
        self._process = None
        if code is None:
            return "its process stopped answering"
        return f"its process was killed by signal {-code}" if code < 0 else f"its process ended with status {code}"


def reason(error: BaseException) -> str:
    """Return an error as one short line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()[:300] if lines else 'no message'}"


def _serve(pipe: Connection) -> None:
    """Call what comes through ``pipe`` until it is closed; end at once where the process is of no more use."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    while True:
        try:
            work, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("done", work(lambda at: pipe.send(("at", at)), *arguments)))
        except Unusable as error:
            pipe.send(("lost", reason(error)))
            os._exit(1)  # whatever would still be freed belongs to a context that is gone
        except Exception as error:
            pipe.send(("raised", reason(error)))
