"""What the verbs share: options, tables, progress bars, JSON results. Imports nothing heavy."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from slimtask.cli.places import write_report
from slimtask.cli.surroundings import speaks_for_all
from slimtask.tables import Sheet

FIRST = speaks_for_all()
"""Whether this process speaks for all: of those that torchrun started only the first one does."""


class Patient(Console):
    """A console whose reader may leave (`| head -1`): it falls silent, and the verb ends its work with its status."""

    def on_broken_pipe(self) -> None:
        """Write nowhere from now on."""
        self.quiet = True
        with suppress(OSError, ValueError):  # a stream that is no file, in tests
            os.dup2(os.open(os.devnull, os.O_WRONLY), (sys.stderr if self.stderr else sys.stdout).fileno())


console = Patient(emoji=False, quiet=not FIRST)  # mynet:car: is a path, not a picture
JsonOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON.")]


def emit(result: Any, path: Path | None) -> None:
    """Write a verb's result as JSON to ``path`` if the user asked for it."""
    if path is not None and FIRST:
        write_report(path, result)


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yield ``report(done, total, text)`` that drives one progress bar on standard error."""
    with stage_bars() as stage:
        yield stage(label)


@contextmanager
def working(label: str) -> Iterator[None]:
    """Show that something of unknown length is going on, on standard error."""
    with Patient(stderr=True).status(label):
        yield


@contextmanager
def interruptible(sentence: str | Callable[[], str]) -> Iterator[None]:
    """Turn Ctrl-C into ``sentence``, or what it then returns, and exit status 130."""
    try:
        yield
    except KeyboardInterrupt:
        said = sentence if isinstance(sentence, str) else sentence()
        Patient(stderr=True, soft_wrap=True).print(f"slimtask: {said}", markup=False, highlight=False)
        raise typer.Exit(130) from None


@contextmanager
def whatever_interrupts_break() -> Iterator[None]:
    """Turn an error after Ctrl-C into Ctrl-C: a library that is being imported may catch that and then fail anyhow."""
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield
    except typer.Exit:  # the verb has said what its Ctrl-C leaves
        raise
    except Exception:
        if pressed:
            raise KeyboardInterrupt from None
        raise
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def table(title: str, *headings: str, words: bool = False) -> Sheet:
    """Return an empty table; its columns after the first are right-aligned unless they hold ``words``."""
    return Sheet(title=title, headings=headings, left=len(headings) if words else 1)


def show_unreached(modules: Sequence[str]) -> None:
    """Print which modules no input reached, if there are any."""
    if modules:
        console.print(
            f"not reached by the example: {', '.join(modules)} (left as they are; give --also an input that reaches "
            "them)",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def words(text: str | None) -> tuple[str, ...] | None:
    """Return the comma-separated words of an option, None if it was not given."""
    return None if text is None else tuple(word.strip() for word in text.split(",") if word.strip())


@contextmanager
def stage_bars() -> Iterator[Callable[[str], Callable[[int, int, str], None]]]:
    """Yield ``stage(name)``, which adds a progress bar and returns its ``report(done, total, text)``.

    A bar that never reported vanishes at the end: bad input is refused with one sentence and nothing before it.
    """
    bars = _bars()
    silent: set[TaskID] = set()

    def stage(name: str) -> Callable[[int, int, str], None]:
        bar = bars.add_task(name, total=None, text="")
        silent.add(bar)

        def report(done: int, total: int, text: str) -> None:
            if bar in silent:
                silent.remove(bar)
                bars.start()
            bars.update(bar, completed=done, total=total, text=text)

        return report

    if bars.console.is_interactive:
        bars.start()  # to a file nothing is written before there is something to tell
    try:
        yield stage
    finally:
        for bar in silent:
            bars.remove_task(bar)
        if bars.live.is_started:
            bars.stop()


def load_architectures() -> None:
    """Register the architectures that slimtask ships, so that checkpoints can name them."""
    import slimtask.train.models  # noqa: F401


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
        console=Patient(stderr=True, quiet=not FIRST),
    )
