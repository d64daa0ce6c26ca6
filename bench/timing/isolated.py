"""Work in a process that is replaced when a piece of work hangs, kills it, or leaves it without its GPU.

A kernel that reads where it must not leaves its process unable to use the GPU ever after, and one that waits for
ever never returns: either would cost every later measurement.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from slimtask.processes import leave_interrupts_to_parent

Say = Callable[[str], None]
"""Tells where the work is, so that what takes the process with it can be named."""

START_SECONDS = 120.0  # to start a process and to import what the work needs

Work = Callable[..., Any]
"""Called with ``Say`` and its arguments; importable by name, as processes are spawned."""


class Lost(Exception):
    """The work took its process with it: ``at`` what it said last ("" if nothing), and how it ended."""

    def __init__(self, at: str, how: str) -> None:
        super().__init__(how)
        self.at = at


class Failed(Exception):
    """The work raised; the text says what."""


class NoTime(Exception):
    """The time for everything was over before the work was done."""


class Unusable(Exception):
    """Raised by work that finds its process of no more use."""


@runtime_checkable
class Runner(Protocol):
    """Calls pieces of work."""

    def run(self, work: Work, *arguments: Any, seconds: float) -> Any:
        """Return ``work(say, *arguments)``; raises Failed, Lost or NoTime."""

    def rest(self) -> None:
        """Hold nothing until the next piece of work."""


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

    def rest(self) -> None:
        """Do nothing."""


class Isolated:
    """Calls work one after another in a process of its own, a new one whenever work ended in an error.

    ``seconds`` are for everything that it is given: work is killed when they are over, and none begun after them.
    """

    def __init__(self, seconds: float = float("inf")) -> None:
        self._end_at = time.monotonic() + seconds
        self._process: Any = None
        self._pipe: Any = None

    def __enter__(self) -> Isolated:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.rest()

    def run(self, work: Work, *arguments: Any, seconds: float) -> Any:
        """Return ``work(say, *arguments)``; arguments and result are pickled.

        Raises Failed if it raised or cannot be sent, NoTime if the time for everything is over, and Lost if it took
        longer than ``seconds`` (imports not included), ended its process, or raised Unusable.
        """
        if time.monotonic() >= self._end_at:
            raise NoTime("no time was left")
        limit, at = START_SECONDS, ""
        end = time.monotonic() + limit
        try:
            self._send((work, arguments))
            while self._pipe.poll(max(0.0, min(end, self._end_at) - time.monotonic())):
                kind, value = self._pipe.recv()
                if kind == "done":
                    return value
                if kind == "begun":
                    limit, end = seconds, time.monotonic() + seconds
                elif kind == "at":
                    at = value
                else:
                    self.rest()
                    raise Lost(at, value) if kind == "lost" else Failed(value)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise Lost(at, self._stop(wait=5.0)) from None
        except (TypeError, AttributeError, pickle.PicklingError) as error:  # raised before anything was sent
            raise Failed(reason(error)) from error
        self.rest()
        if time.monotonic() >= self._end_at:
            raise NoTime("no time was left")
        raise Lost(at, f"took longer than {limit:.0f} s")

    def rest(self) -> None:
        """End the process; the next piece of work gets a new one."""
        self._stop()

    def _send(self, work: tuple[Work, tuple[Any, ...]]) -> None:
        """Send work to the process, a new one if there is none or it has died since the last."""
        if self._process is not None and not self._process.is_alive():
            self._stop()
        if self._process is None:
            context = multiprocessing.get_context("spawn")  # a CUDA context does not survive a fork
            self._pipe, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            self._process = process
            theirs.close()
        self._pipe.send(work)

    def _stop(self, *, wait: float = 0.0) -> str:
        """Kill the process, after ``wait`` seconds in which it may end by itself, and return how it did."""
        if self._process is None:
            return ""
        self._process.join(wait)
        code = self._process.exitcode
        self._process.kill()
        self._process.join(10.0)
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
    """Call what comes through ``pipe`` until it is closed; end at once after an error, whatever it left behind."""
    leave_interrupts_to_parent()  # which ends this process; and a kernel that hangs would hold the GPU for ever
    while True:
        try:
            work, arguments = pipe.recv()
        except EOFError:
            return
        except Exception as error:  # what the work needs cannot be imported
            pipe.send(("raised", reason(error)))
            return
        pipe.send(("begun", None))
        try:
            pipe.send(("done", work(lambda at: pipe.send(("at", at)), *arguments)))
        except Exception as error:
            pipe.send(("lost" if isinstance(error, Unusable) else "raised", reason(error)))
            os._exit(1)  # what would still be freed may belong to a context that is gone
