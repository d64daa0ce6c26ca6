"""The `slimtask` command: verbs, and the one place where errors become a sentence and an exit status."""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console

from slimtask import __version__
from slimtask.cli import bench, compress, costs, demo, doctor, export, inspect, relate, run, sweep, train, verify
from slimtask.cli.common import interruptible, whatever_interrupts_break
from slimtask.cli.user_code import first_line, raised_in
from slimtask.errors import SlimtaskError
from slimtask.files import file_in_the_way

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="One multi-task vision network in, lean per-task engines out.",
)


def _left(outputs: Mapping[str, Any]) -> str:
    """Return what an interrupted verb with these arguments leaves behind, as far as that can be told for all verbs."""
    if "out" in outputs and outputs["out"] is None:  # a place that the verb chooses
        return "interrupted."
    places = [outputs[name] for name in ("out", "plot", "json_path") if outputs.get(name) is not None]
    return "interrupted." if any(place.exists() for place in places) else "interrupted; nothing was written."


def _telling(verb: Callable[..., None]) -> Callable[..., None]:
    """Return the verb, which after Ctrl-C says so in one sentence, unless it has said more itself."""

    @functools.wraps(verb)
    def told(**arguments: Any) -> None:
        with interruptible(lambda: _left(arguments)), whatever_interrupts_break():
            verb(**arguments)

    return told


for module in (demo, train, relate, compress, costs, export, run, bench, sweep, verify, inspect, doctor):
    name = module.__name__.rpartition(".")[2]
    app.command(name=name)(_telling(getattr(module, f"{name}_verb")))


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    """Compress a trained multi-task network, export per-task engines, measure what it bought."""
    if version:
        typer.echo(f"slimtask {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; exit status 0 done, 1 a check does not hold, 2 bad input (Ctrl-C: 130)."""
    if "--debug" in sys.argv:
        app()
    try:
        app()
    except SlimtaskError as error:
        _stop(str(error), error.exit_status)
    except OSError as error:
        _stop(_of_the_system(error), 2)
    except Exception as error:
        place = raised_in(error)
        if place is None:  # slimtask's own mistake
            raise
        _stop(
            f"code of yours fails: {type(error).__name__}: {first_line(error)} ({place}); mend it, or see the whole "
            "traceback with --debug before the verb.",
            2,
        )


def _of_the_system(error: OSError) -> str:
    where = f" at '{error.filename}'" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"the disk is full{where}; make room and run the command again, nothing half-written remains."
    blocked = file_in_the_way(error.filename) if error.errno in (errno.EEXIST, errno.ENOTDIR) else None
    if blocked is not None:
        return f"'{blocked}' is a file, not a folder; give another path."
    return f"{error.strerror or error}{where}; check the path and its permissions."


def _stop(sentence: str, status: int) -> None:
    Console(stderr=True, soft_wrap=True, emoji=False).print(f"slimtask: {sentence}", markup=False, highlight=False)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
