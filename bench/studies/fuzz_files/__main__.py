"""`make fuzz-files`: hostile files and options through the commands, ``python -m slimtask.bench.studies.fuzz_files``.

Checkpoints, bundles, recipes, task files, weights, images and ONNX files are broken in seeded ways, options given odd
words. No case may end in a traceback, run longer than ten seconds, open a file outside of its folder, change what the
user had, or leave anything half-made. ``--seed N --cases 1 -v`` replays one.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from slimtask.bench.studies.fuzz_files.base import make
from slimtask.bench.studies.fuzz_files.run import LIMIT_SECONDS
from slimtask.bench.studies.harness import command_of, in_chunks, keep, parser_of, run_module, run_study, stamped

_CHUNK = 50


def run_chunk(base: Path, first: int, count: int) -> list[dict[str, Any]]:
    """Return the rows of ``count`` cases from ``first`` on, run in other processes; what ends one is a fault."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        while len(rows) < count:
            file, log = Path(scratch, f"{len(rows)}.jsonl"), Path(scratch, "log.txt")
            words = [str(base), str(first + len(rows)), str(count - len(rows)), str(file)]
            how = run_module("slimtask.bench.studies.fuzz_files.worker", words, log, 120 + 2.0 * LIMIT_SECONDS * count)
            lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
            rows += [line for line in lines if "began" not in line]
            if len(rows) < count and how:
                begun = {"seed": first + len(rows), "kind": "?", "damage": "?", "seconds": 0.0, "status": -3}
                rows.append({**begun, "faults": [f"the process ended: {how}"]})
    return rows


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the counts of all rows: cases by kind and status, and the seeds that had faults."""
    faults = Counter(fault.partition(":")[0].partition(" at ")[0] for row in rows for fault in row["faults"])
    return {
        "cases": len(rows),
        "kinds": dict(sorted(Counter(f"{row['kind']}: {row['damage']}" for row in rows).items())),
        "statuses": dict(sorted(Counter(str(row["status"]) for row in rows).items())),
        "faults": dict(faults),
        "faulty_seeds": [row["seed"] for row in rows if row["faults"]],
        "longest_seconds": max((row["seconds"] for row in rows), default=0.0),
        "seconds": round(sum(row["seconds"] for row in rows), 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases and print what was found; exit status 1 if any has a fault."""
    parser = parser_of("fuzz_files", __doc__)
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first case")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every row")
    options = parser.parse_args(arguments)
    head = stamped(command_of(parser, arguments))
    with tempfile.TemporaryDirectory() as base:
        make(Path(base))
        seeds = range(options.seed, options.seed + options.cases)
        ordered = in_chunks(
            partial(run_chunk, Path(base)), seeds, size=_CHUNK, jobs=options.jobs, title="cases from seed"
        )
    shown = [row for row in ordered if row["faults"] or options.verbose]
    found = summary(ordered)
    keep(options.json, {**head, "summary": found, "faulty": [row for row in ordered if row["faults"]]})
    print(json.dumps({"rows": shown, "summary": found}, indent=2))
    return int(bool(found["faulty_seeds"]))


if __name__ == "__main__":
    run_study("fuzz-files", main)
