"""`make zoo-wild`: networks of many families from timm, segmentation-models-pytorch, transformers, torchvision, own.

Each goes through slimtask and, beside it, through torch-pruning, each time in a process of its own: half the channels
of every group go by their l2 norm. Rows are kept in FILE after every network; what is not asked for stays as it is.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimtask.bench.studies.harness import command_of, in_parallel, keep, known_rows, parser_of, run_module, run_study
from slimtask.bench.studies.zoo_wild.report import markdown, result_of
from slimtask.bench.studies.zoo_wild.subjects import names
from slimtask.errors import InputError, nearest
from slimtask.files import read_json

TOOLS = ("slimtask", "peer")


def run_tool(tool: str, name: str, cpu_seconds: int) -> dict[str, Any]:
    """Return what one tool makes of one network in a fresh process; nothing is left on the disk.

    The limit is in CPU seconds, so that a busy machine fails nobody; ten times as many by the clock end what hangs.
    """
    folder = Path(tempfile.mkdtemp(prefix="zoo-wild-"))
    given = [tool, name, str(folder), "--cpu-seconds", str(cpu_seconds)]
    try:
        ended = run_module("slimtask.bench.studies.zoo_wild.steps", given, folder / "log.txt", 10.0 * cpu_seconds)
        row: dict[str, Any] = read_json(folder / "row.json", "row") if (folder / "row.json").exists() else {}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    part = row.pop("part", "start")
    if ended or "status" not in row:
        late = ended.startswith(("took longer", f"killed by signal {int(signal.SIGXCPU)}"))
        row |= {"status": "fail", "kind": "timeout" if late else "traceback"}
        row |= {"reason": f"{part}: {ended or 'no verdict'}"}
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if nothing failed on slimtask's side, 1 otherwise; the result is written after every network."""
    parser = _parser()
    options = parser.parse_args(arguments)
    known = names()
    for name in options.models:
        if name not in known:
            raise InputError(f"there is no network '{name}' in the wild zoo{nearest(name, known)}.")
    rows = {row["name"]: row for row in known_rows(options.json, "models") if row["name"] in known}
    command = command_of(parser, arguments)
    tools = TOOLS if options.only is None else (options.only,)

    def work(name: str) -> dict[str, Any]:
        row = dict(rows.get(name, {"name": name}))
        for tool in tools:
            if not (options.resume and _done(row, tool)):
                row[tool] = run_tool(tool, name, options.cpu_seconds)
        return row

    def done(row: dict[str, Any]) -> None:
        rows[row["name"]] = row
        write()

    def write() -> dict[str, Any]:
        result = result_of([rows[name] for name in known if name in rows], command)
        keep(options.json, result, markdown)
        return result

    asked = options.models or known
    left = [n for n in asked if not (options.resume and all(_done(rows.get(n, {}), tool) for tool in tools))]
    in_parallel(work, left, jobs=options.jobs, done=done, title="zoo-wild")
    found = write()["summary"]
    print(json.dumps([rows[name] for name in asked] if options.models else found, indent=2))
    return int(found["counts"]["fail"] > 0)


def _done(row: Mapping[str, Any], tool: str) -> bool:
    """Return whether a tool need not be run again: torch-pruning stays as it is, slimtask is mended."""
    return tool in row and (tool == "peer" or row[tool]["status"] != "fail")


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("zoo_wild", __doc__)
    parser.add_argument("--models", nargs="*", default=[], help="names of networks; all of them by default")
    parser.add_argument("--only", choices=TOOLS, help="run this tool, keep what FILE says of the other")
    parser.add_argument("--resume", action="store_true", help="keep what FILE says already, slimtask's fails excepted")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="result; a table goes to FILE.md")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--cpu-seconds", type=int, default=120, help="limit of each process")
    return parser


if __name__ == "__main__":
    run_study("zoo-wild", main)
