"""`make delta`: sub-tasks as sparse deltas against T dense models, on this CPU."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimtask.bench.studies.delta import cpu
from slimtask.bench.studies.delta.plot import write_plot
from slimtask.bench.studies.delta.report import GOALS, markdown, result
from slimtask.errors import SlimtaskError
from slimtask.files import write_json, write_text


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and with ``--json FILE`` write FILE, and a Markdown page and a plot beside it."""
    parser = argparse.ArgumentParser(prog="python -m slimtask.bench.studies.delta", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.add_argument("--threads", type=int, default=2, help="threads of ONNX Runtime")
    parser.add_argument("--rounds", type=int, default=20, help="interleaved samples of every candidate")
    parser.add_argument("--seconds", type=float, default=900.0, help="begin nothing new after this time")
    options = parser.parse_args(arguments)
    if min(options.threads, options.rounds) < 1 or options.seconds <= 0:
        parser.error("--threads, --rounds and --seconds must be positive")
    given = sys.argv[1:] if arguments is None else arguments
    settings = {name: getattr(options, name) for name in ("threads", "rounds", "quick", "seconds")}
    command, goals = " ".join(["python -m slimtask.bench.studies.delta", *given]), () if options.quick else GOALS

    partial = options.json.with_suffix(".partial.json") if options.json else None

    def keep(rows: list[dict[str, Any]], left_out: list[str]) -> None:
        if partial:  # a run that is stopped keeps what it has measured
            write_json(partial, result(rows, command, settings, left_out, goals=goals))

    try:
        keep([], [])  # a place that cannot be is found out now
        rows, left_out = cpu.measure(**settings, say=_say, keep=keep)
        made = result(rows, command, settings, left_out, goals=goals)
        if options.json:
            write_json(options.json, made)
            options.json.with_suffix(".partial.json").unlink()
            write_plot(rows, options.json.with_suffix(".svg"))
            write_text(options.json.with_suffix(".md"), markdown(made, options.json.with_suffix(".svg").name))
        print(markdown(made))
    except SlimtaskError as error:
        _say(f"delta: {error}")
        raise SystemExit(error.exit_status) from None
    except KeyboardInterrupt:
        _say("delta: interrupted" + (f"; what was measured is in '{partial}'." if partial else "."))
        raise SystemExit(130) from None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
