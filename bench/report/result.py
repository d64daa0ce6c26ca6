"""A sweep's report as a committed result: the JSON, and a Markdown table of the figures that matter."""

from __future__ import annotations

import argparse
from pathlib import Path

from slimtask.bench.report.schema import Level, Report
from slimtask.files import write_text


def main() -> None:
    """Write OUT.json and OUT.md from a report.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="path without suffix")
    arguments = parser.parse_args()
    report = Report.load(arguments.report)
    report.save(arguments.out.with_suffix(".json"))
    write_text(arguments.out.with_suffix(".md"), markdown(report))


def markdown(report: Report) -> str:
    """Return the report's levels as a Markdown table under its title, command, machine and versions."""
    tasks = {task.name: task for task in report.tasks}
    scores = [f"{task.name} {task.metric} {'↑' if task.higher_is_better else '↓'}" for task in tasks.values()]
    heads = ["level", "trunk removed", "groups zero", *scores, "delta_m %", "parameters", "GFLOPs", "FLOP ratio"]
    heads += [f"{backend} ms (p10-p90)" for backend in report.backends]
    heads += [f"{backend} speed-up" for backend in report.backends] + ["certificate"]
    rows = [heads, ["---"] * len(heads), *([*_level(level, report)] for level in report.levels)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    machine = report.environment
    facts = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    notes = "\n".join(f"- {note}" for note in report.notes)
    return (
        f"# {report.title}\n\n`{report.command}` ({report.created})\n\n{table}\n\n"
        "Latency: median over interleaved rounds in one process, thread spinning off. FLOPs: one multiply-add is two; "
        f"a FLOP ratio is no speed-up. Scores: test split.\n{notes}\n\n## Machine and versions\n\n{facts}\n"
    )


def _level(level: Level, report: Report) -> list[str]:
    cells = [level.name, f"{level.sparsity:.1%}", _text(level.group_sparsity, ".1%")]
    cells += [_text(level.metrics[task.name][task.metric], ".4f") for task in report.tasks]
    cells += [_text(level.delta_m, "+.2f"), f"{level.params:,}", f"{level.flops / 1e9:.3f}"]
    cells += [_text(level.flop_ratio, ".2f")]
    timings = [level.latency_ms[backend] for backend in report.backends]
    cells += [f"{timing.median:.2f} ({timing.p10:.2f}-{timing.p90:.2f})" for timing in timings]
    cells += [str(timing.speedup) if timing.speedup else "1" for timing in timings]
    return [*cells, _text(level.certificate.max_rel_error if level.certificate else None, ".1e")]


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    main()
