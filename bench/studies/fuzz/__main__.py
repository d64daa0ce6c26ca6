"""Hundreds of seeded random networks through pruning and exact removal: ``python -m slimtask.bench.studies.fuzz``.

Every network is checked as ``checks.py`` says, in processes of one thread; what must become of each construct over
all networks is in ``fates.py``. ``--seed N --networks 1 -v`` replays one network and prints it with all that was
found; ``--constructs NAME ...`` draws only from these blocks, heads and forms of outputs.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from slimtask.bench.studies.fuzz.fates import by_construct, excused_for_nothing, never_shrunk, reason_in
from slimtask.bench.studies.harness import command_of, in_chunks, keep, parser_of, run_module, run_study, stamped

_CHUNK = 10
_SECONDS_PER_NETWORK = 120.0


def run_chunk(first: int, count: int, *, onnx_every: int, only: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the rows of networks ``first`` on, checked in other processes; what kills its process is a failure."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        file, log = Path(folder, "rows.jsonl"), Path(folder, "log.txt")
        while len(rows) < count:
            arguments = [str(first + len(rows)), str(count - len(rows)), str(file), "--onnx-every", str(onnx_every)]
            arguments += ["--constructs", *only] if only else []
            ended = run_module("slimtask.bench.studies.fuzz.checks", arguments, log, _SECONDS_PER_NETWORK * count)
            rows += [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
            file.unlink(missing_ok=True)
            if len(rows) < count:
                failure = {"check": "process", "error": ended or "ended without a row"}
                rows.append({"seed": first + len(rows), "status": "fail", "failures": [failure], "seconds": 0.0})
    return rows


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the counts that matter: by status, check, refusal and construct, and what the safety nets caught."""
    failures = [failure for row in rows for failure in row["failures"]]
    constructs = by_construct(rows)
    return {
        "networks": len(rows),
        "counts": dict(Counter(str(row["status"]) for row in rows)),
        "failures_by_check": dict(Counter(failure["check"] for failure in failures)),
        "failed_seeds": [row["seed"] for row in rows if row["status"] == "fail"],
        "must_shrink_and_never_did": never_shrunk(constructs),
        "excused_though_they_shrink": excused_for_nothing(constructs),
        "refusals": dict(
            Counter(
                f"{what}: {reason_in(why)}" for row in rows for what, why in row.get("refusals", {}).items()
            ).most_common()
        ),
        "certificate_only": sum(bool(row.get("certificate only")) for row in rows),
        "retracted_seeds": [
            row["seed"] for row in rows if any(row.get(what, {}).get("retracted") for what in ("pruned", "zeros"))
        ],
        "channels_pruned": sum(row.get("pruned", {}).get("channels", 0) for row in rows),
        "dead_channels_removed": sum(row.get("zeros", {}).get("channels", 0) for row in rows),
        "onnx_compared": sum("ONNX" in row for row in rows),
        "no_onnx": dict(Counter(row["no ONNX"].split(":")[0] for row in rows if "no ONNX" in row)),
        "kept_in_silence_seeds": [row["seed"] for row in rows if row.get("kept in silence")],
        "nothing_pruned": sum(row.get("pruned", {}).get("channels", 0) == 0 for row in rows),
        "constructs": constructs,
        "seconds": round(sum(row["seconds"] for row in rows), 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if every check held of every network and every construct that must shrink did, 1 otherwise."""
    parser = parser_of("fuzz", __doc__)
    parser.add_argument("--networks", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first network")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--onnx-every", type=int, default=1, metavar="N", help="export every N-th network, 0 for none")
    parser.add_argument("--constructs", nargs="+", default=[], metavar="NAME", help="draw only from these")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the first network and all rows")
    options = parser.parse_args(arguments)
    if options.constructs:
        from slimtask.bench.studies.fuzz.networks import check_names

        check_names(options.constructs)
    head = stamped(command_of(parser, arguments))

    def so_far(rows: list[dict[str, Any]]) -> None:
        told = [row for row in rows if row["status"] != "pass"]  # of the others the seed is enough
        keep(options.json, {**head, "summary": summary(rows), "networks": told})

    ordered = in_chunks(
        partial(run_chunk, onnx_every=options.onnx_every, only=options.constructs),
        range(options.seed, options.seed + options.networks),
        size=_CHUNK,
        jobs=options.jobs,
        title="networks from seed",
        so_far=so_far,
    )
    if options.verbose:
        from slimtask.bench.studies.fuzz.networks import network

        print(network(options.seed, options.constructs))
    shown = [row for row in ordered if options.verbose or row["status"] == "fail"]
    counts_of_all = summary(ordered)
    print(json.dumps({"networks": shown, "summary": counts_of_all}, indent=2))
    return int(bool(counts_of_all["failed_seeds"] or counts_of_all["must_shrink_and_never_did"]))


if __name__ == "__main__":
    run_study("fuzz", main)
