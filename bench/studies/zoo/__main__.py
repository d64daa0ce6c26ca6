"""Every float model of torchvision through removal, certificate, file and ONNX: `make zoo`.

Each model runs in fresh processes of one thread: half the channels of every group that may lose some go, the result is
certified against the masked dense network, saved, loaded in another process (equal bit for bit) and compared under
ONNX Runtime. ``--exact`` instead kills random channels and removes exactly those.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from slimtask.bench.studies.harness import (
    Cell,
    command_of,
    facts,
    in_parallel,
    keep,
    known_rows,
    number,
    parser_of,
    run_module,
    run_study,
    stamped,
    table,
    text,
)
from slimtask.bench.studies.zoo.models import convolutional_names, model_names
from slimtask.errors import InputError, nearest
from slimtask.files import read_json

_ALONE = ("vit_h_14", "regnet_y_128gf", "vit_l_16", "vit_l_32", "convnext_large")  # over 150 million parameters
_STEPS = {False: ("prune", "reload"), True: ("exact",)}


def run_model(name: str, *, exact: bool, timeout_seconds: float) -> dict[str, Any]:
    """Return the row of one model after all its steps, each in a fresh process; nothing is left on the disk."""
    folder = Path(tempfile.mkdtemp(prefix=f"zoo-{name}-"))
    started = time.perf_counter()
    row: dict[str, Any] = {}
    try:
        for step in _STEPS[exact]:
            ended = run_module(
                "slimtask.bench.studies.zoo.steps", [step, name, str(folder)], folder / "log.txt", timeout_seconds
            )
            row = read_json(folder / "row.json", "row") if (folder / "row.json").exists() else {}
            if ended and row.get("status") != "fail":
                row |= {"status": "fail", "reason": f"{row.get('part', step)}: {ended}"}
            if "status" in row:
                break
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    row.setdefault("status", "fail")
    row.setdefault("reason", "the last step left no verdict")
    row.pop("part", None)
    return {"name": name, **row, "total_seconds": round(time.perf_counter() - started, 1)}


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the counts by status, and the median and largest seconds and memory of the rows that have them."""
    seconds = [row["seconds"] for row in rows if row.get("seconds") is not None]
    peaks = [row["peak_mb"] for row in rows if row.get("peak_mb") is not None]
    counts = Counter(str(row["status"]) for row in rows)
    found: dict[str, Any] = {"counts": {"models": len(rows)} | {s: counts[s] for s in ("pass", "refused", "fail")}}
    if seconds:
        found |= {"median_seconds": round(median(seconds), 3), "max_seconds": max(seconds)}
    if peaks:
        found["max_peak_mb"] = max(peaks)
    return found


def result_of(rows: Mapping[str, Mapping[str, Any]], names: Sequence[str], command: str) -> dict[str, Any]:
    """Return the JSON-ready result; rows come in the order of ``names``."""
    ordered = [rows[name] for name in names if name in rows]
    stamp = stamped(command)
    return {
        "command": command,
        "summary": summary(ordered),
        "memory": "largest resident set, sampled every 2 ms, above what the process held before the analysis",
        "versions": stamp["versions"],
        "machine": stamp["machine"],
        "models": ordered,
    }


def markdown(result: Mapping[str, Any]) -> str:
    """Return the result as a Markdown page: summary, one table, machine and versions."""
    exact = any("killed" in row for row in result["models"])
    columns = _EXACT_COLUMNS if exact else _COLUMNS
    counts = ", ".join(f"{count} {name}" for name, count in result["summary"]["counts"].items())
    title = "Exact removal of dead channels" if exact else "The models of torchvision, half their channels removed"
    page = [f"# {title}", f"`{result['command']}`", f"{counts}.", table(columns, result["models"])]
    return "\n\n".join([*page, facts(result["machine"], result["versions"])])


_NAMED: dict[str, Cell] = {"model": text("name"), "status": text("status")}
_SIZES: dict[str, Cell] = {"parameters": number("params_before", ","), "left": number("params_ratio", ".2f")}
_PROOF: dict[str, Cell] = {"certificate": number("certificate_max_rel_error", ".1e")}
_REASON: dict[str, Cell] = {"reason": text("reason")}
_COLUMNS: dict[str, Cell] = {
    **_NAMED,
    "s": number("seconds", ".2f"),
    "peak MB": number("peak_mb", ".0f"),
    **_SIZES,
    "FLOP ratio": number("flops_ratio", ".2f"),
    "open / refused groups": lambda row: f"{row.get('groups_open', '-')} / {row.get('groups_refused', '-')}",
    **_PROOF,
    "ONNX": number("onnx_rel_error", ".1e"),
    **_REASON,
}
_EXACT_COLUMNS: dict[str, Cell] = {
    **_NAMED,
    "s": number("seconds", ".1f"),
    **_SIZES,
    "channels removed": number("channels_removed", ","),
    "of killed": lambda row: format(sum(kind["channels"] for kind in row.get("killed", {}).values()), ","),
    **_PROOF,
    **_REASON,
}


def _chosen(models: Sequence[str], exact: bool) -> list[str]:
    known = model_names()
    for name in models:
        if name not in known:
            raise InputError(f"there is no model '{name}' in the zoo{nearest(name, known)}.")
    return list(models) or (convolutional_names() if exact else known)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if no model failed, 1 otherwise; the result is written after every model."""
    parser = parser_of("zoo", __doc__)
    parser.add_argument("--models", nargs="*", default=[], help="names of torchvision models; all of them by default")
    parser.add_argument("--exact", action="store_true", help="remove channels killed at random, exactly")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="result; a table goes to FILE.md")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--timeout", type=float, default=1800, metavar="SECONDS", help="limit of each process")
    parser.add_argument("--resume", action="store_true", help="keep the rows of FILE that did not fail")
    options = parser.parse_args(arguments)
    names = _chosen(options.models, options.exact)
    earlier = known_rows(options.json, "models") if options.resume else []
    rows: dict[str, Any] = {row["name"]: row for row in earlier if row["status"] != "fail"}
    command = command_of(parser, arguments)
    order = list(dict.fromkeys([*rows, *names]))

    def done(row: dict[str, Any]) -> None:
        rows[row["name"]] = row
        keep(options.json, result_of(rows, order, command), markdown)

    def work(name: str) -> dict[str, Any]:
        return run_model(name, exact=options.exact, timeout_seconds=options.timeout)

    left = [name for name in names if name not in rows]
    together, alone = ([n for n in left if (n in _ALONE) == big] for big in (False, True))
    for some, jobs in ((together, options.jobs), (alone, 1)):
        if some:
            in_parallel(work, some, jobs=jobs, done=done, title="zoo")
    result = result_of(rows, order, command)
    keep(options.json, result, markdown)
    print(json.dumps(result if options.models else result["summary"], indent=2))
    return int(result["summary"]["counts"]["fail"] > 0)


if __name__ == "__main__":
    run_study("zoo", main)
