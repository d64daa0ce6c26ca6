"""The `slimtask` command: verbs, and the one place where errors become a sentence and an exit status."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from slimtask import __version__
from slimtask.cli import (
    bench,
    compress,
    costs,
    demo,
    doctor,
    evaluate,
    export,
    inspect,
    relate,
    run,
    sweep,
    train,
    verify,
)
from slimtask.cli.common import Patient, interruptible, whatever_interrupts_break
from slimtask.cli.pieces import missing_piece
from slimtask.cli.places import check_places
from slimtask.cli.surroundings import Terminated, settled
from slimtask.cli.system import left, of_the_system, refusals
from slimtask.cli.user_code import first_line, raised_in
from slimtask.errors import SlimtaskError
from slimtask.train.shipped import shipped

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One multi-task vision network in, lean per-task engines out.",
)


def _telling(name: str, verb: Callable[..., None]) -> Callable[..., None]:
    """Return the verb, which looks at its outputs first and, cut short, says what it leaves unless it has said more."""

    @functools.wraps(verb)
    def told(**arguments: Any) -> None:
        def ended(how: str) -> str:
            remains = left(arguments)
            return f"{how}; nothing was written." if remains == "nothing was written" else f"{how}."

        try:
            with interruptible(lambda: ended("interrupted")), whatever_interrupts_break(), refusals(arguments):
                check_places(name, arguments)
                verb(**arguments)
        except Terminated as stop:
            _say(ended("stopped by a signal"))
            raise typer.Exit(stop.exit_status) from None

    return told


for module in (demo, train, relate, compress, costs, export, run, bench, sweep, verify, evaluate, inspect, doctor):
    name = module.__name__.rpartition(".")[2]
    known = "Recipes that come with slimtask: " + ", ".join(shipped())
    epilog = known if name in ("train", "sweep", "relate") else None
    app.command(name=name, epilog=epilog)(_telling(name, getattr(module, f"{name}_verb")))


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"slimtask {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error, and what libraries log.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Compress a trained multi-task network, export per-task engines, measure what it bought."""


def main() -> None:
    """Run the command line; exit status 0 done, 1 a check does not hold, 2 bad input (Ctrl-C: 130, SIGTERM: 143).

    A reader who leaves, as in `| head -1`, changes neither the work nor the status.
    """
    if "--debug" in sys.argv:
        with settled(debug=True):
            app()
        return
    try:
        with settled():
            app()
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # of --help: the reader has seen enough
            raise SystemExit(0) from None
        raise
    except Terminated as stop:
        raise SystemExit(stop.exit_status) from None
    except SlimtaskError as error:
        _stop(str(error), error.exit_status)
    except OSError as error:
        _stop(of_the_system(error), 2)
    except Exception as error:
        _stop(_unforeseen(error), 2)


def _unforeseen(error: Exception) -> str:
    """Return the sentence for an error in the user's code or a missing package; slimtask's own is raised as it is."""
    place = raised_in(error)
    if place is not None:
        return (
            f"code of yours fails: {type(error).__name__}: {first_line(error)} ({place}); mend it, or see the whole "
            "traceback with --debug before the verb."
        )
    missing = missing_piece(error) if isinstance(error, ImportError) else None
    if missing is None:
        raise error
    return missing


def _say(sentence: str) -> None:
    Patient(stderr=True, soft_wrap=True, emoji=False).print(f"slimtask: {sentence}", markup=False, highlight=False)


def _stop(sentence: str, status: int) -> None:
    _say(sentence)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
