"""`make delta`: sub-tasks as sparse deltas against T dense models, on this CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slimtask.bench.studies.delta import cpu
from slimtask.bench.studies.delta.report import GOALS, markdown, result, write_plot
from slimtask.bench.studies.harness import command_of, keep, parser_of, run_study, say
from slimtask.files import write_json, write_text


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and with ``--json FILE`` write FILE, and a Markdown page and a plot beside it."""
    parser = parser_of("delta", __doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.add_argument("--threads", type=int, default=2, help="threads of ONNX Runtime")
    parser.add_argument("--rounds", type=int, default=20, help="interleaved samples of every candidate")
    parser.add_argument("--seconds", type=float, default=900.0, help="begin nothing new after this time")
    options = parser.parse_args(arguments)
    if min(options.threads, options.rounds) < 1 or options.seconds <= 0:
        parser.error("--threads, --rounds and --seconds must be positive")
    settings = {name: getattr(options, name) for name in ("threads", "rounds", "quick", "seconds")}
    command, goals = command_of(parser, arguments), () if options.quick else GOALS

    partial = options.json.with_suffix(".partial.json") if options.json else None

    def so_far(rows: list[dict[str, Any]], left_out: list[str]) -> None:  # what a run that is stopped leaves
        keep(partial, result(rows, command, settings, left_out, goals=goals))

    try:
        so_far([], [])  # a place that cannot be is found out now
        rows, left_out = cpu.measure(**settings, say=say, keep=so_far)
        made = result(rows, command, settings, left_out, goals=goals)
        if options.json:
            write_json(options.json, made)
            options.json.with_suffix(".partial.json").unlink()
            write_plot(rows, options.json.with_suffix(".svg"))
            write_text(options.json.with_suffix(".md"), markdown(made, options.json.with_suffix(".svg").name))
        print(markdown(made))
    except KeyboardInterrupt:
        say("delta: interrupted" + (f"; what was measured is in '{partial}'." if partial else "."))
        raise SystemExit(130) from None


if __name__ == "__main__":
    run_study("delta", main)
