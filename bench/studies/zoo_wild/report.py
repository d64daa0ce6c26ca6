"""What the networks from the wild say together: counts, slimtask beside torch-pruning, reasons; JSON and Markdown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from slimtask.bench.studies.harness import Cell, facts, number, stamped, table, text
from slimtask.measured import version_of

Row = Mapping[str, Any]
POINTS = 0.03  # so much less than torch-pruning may slimtask remove, as a share of the parameters
SLOW = 10.0  # CPU seconds
AGREES = 1e-4  # relative difference from the dense network with zeros, in float32
KINDS = ("wrong", "traceback", "damage", "timeout")


def result_of(rows: Sequence[Row], command: str) -> dict[str, Any]:
    """Return the JSON-ready result of the rows, which come in the order given."""
    stamp = stamped(command)
    more = {name: version_of(name) for name in ("timm", "segmentation-models-pytorch", "transformers")}
    return {
        "command": command,
        "summary": summary(rows),
        "share": "share of the parameters removed; seconds are CPU seconds of one thread",
        "versions": stamp["versions"] | {name: version for name, version in more.items() if version},
        "machine": stamp["machine"],
        "models": list(rows),
    }


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the counts, the comparison with torch-pruning, the times, who is behind or slow, and the reasons."""
    ours = [row["slimtask"] for row in rows if "slimtask" in row]
    counts = Counter(each["status"] for each in ours)
    kinds = Counter(each.get("kind") for each in ours if each["status"] == "fail")
    both = [row for row in rows if _took(row)]
    behind = sorted((row for row in both if lead(row) < -POINTS), key=lead)
    found: dict[str, Any] = {
        "counts": {"networks": len(rows)} | {status: counts[status] for status in ("pass", "refused", "fail")},
        "fails": {kind: kinds[kind] for kind in KINDS},
        "refused": {row["name"]: row["slimtask"]["reason"] for row in rows if _status(row) == "refused"},
        "peer": dict(Counter(row["peer"]["status"] for row in rows if "peer" in row)),
        "both_take": len(both),
        "behind": {row["name"]: [row["slimtask"]["share"], row["peer"]["share"]] for row in behind},
    }
    if len(ours) < len(rows):
        found["counts"]["not run yet"] = len(rows) - len(ours)
    if both:
        found["share_not_behind"] = round(1 - len(behind) / len(both), 4)
    for key in ("seconds_analysis", "seconds"):
        times = [each[key] for each in ours if key in each]
        if times:
            found |= {f"median_{key}": round(median(times), 2), f"max_{key}": max(times)}
            slow = {row["name"]: row["slimtask"][key] for row in rows if row.get("slimtask", {}).get(key, 0) > SLOW}
            found[f"over_{SLOW:.0f}_{key}"] = slow
    return found | {"zeroed": _zeroed(rows), "reasons": _reasons(ours)}


def _zeroed(rows: Sequence[Row]) -> dict[str, Any]:
    """Return how many agree with the dense network in which zeros stand for what is gone, who does not, and why not."""
    told = {row["name"]: row["slimtask"].get("zeroed_rel_error") for row in rows if _status(row) == "pass"}
    numbers = {name: error for name, error in told.items() if isinstance(error, float)}
    return {
        "agree": sum(error <= AGREES for error in numbers.values()),
        "differ": {name: error for name, error in numbers.items() if error > AGREES},
        "not_compared": {name: why for name, why in told.items() if isinstance(why, str)},
    }


def lead(row: Row) -> float:
    """Return the share that slimtask removes above that of torch-pruning."""
    return float(row["slimtask"]["share"] - row["peer"]["share"])


def _status(row: Row) -> str:
    return str(row.get("slimtask", {}).get("status", ""))


def _took(row: Row) -> bool:
    return _status(row) == "pass" and row.get("peer", {}).get("status") == "runs"


def _reasons(ours: Sequence[Row]) -> list[dict[str, Any]]:
    """Return why channels stay, whatever their names and numbers: networks, groups, channels, parameters they touch."""
    found: dict[str, dict[str, int]] = {}
    for each in ours:
        here: set[str] = set()
        for reason, counts in each.get("reasons", {}).items():
            kind = re.sub(r"\d+", "#", re.sub(r"'[^']*[./][^']*'", "'...'", reason))
            total = found.setdefault(kind, {"networks": 0})
            total["networks"] += kind not in here
            here.add(kind)
            for key, value in counts.items():
                total[key] = total.get(key, 0) + value
    ordered = sorted(found.items(), key=lambda item: -item[1].get("params", 0))
    return [{"reason": reason, **counts} for reason, counts in ordered]


def markdown(result: Row) -> str:
    """Return the result as a Markdown page: summary, one table, machine and versions."""
    counts = result["summary"]["counts"]
    page = [
        "# Networks from the wild, half their channels removed",
        f"`{result['command']}`",
        ", ".join(f"{count} {name}" for name, count in counts.items()) + ".",
        "\n".join(f"- {line}" for line in _lines(result["summary"])),
        table(_COLUMNS, result["models"]),
        "## Why channels stay",
        table(_REASONS, result["summary"]["reasons"]),
        facts(result["machine"], result["versions"]),
    ]
    return "\n\n".join(page)


def _lines(found: Row) -> Iterator[str]:
    fails = ", ".join(f"{count} {kind}" for kind, count in found["fails"].items())
    yield f"Of those that fail: {fails}."
    if found["refused"]:
        yield f"Refused: {', '.join(found['refused'])}."
    if "share_not_behind" in found:
        yield (
            f"Both slimtask and torch-pruning take {found['both_take']}; in {found['share_not_behind']:.1%} of them "
            f"slimtask removes at least torch-pruning's share less {POINTS * 100:.0f} points."
        )
    zeroed = found["zeroed"]
    differ = ", ".join(f"{name} ({error:.1e})" for name, error in zeroed["differ"].items()) or "none"
    yield (
        f"Beside the certificate, the dense network with zeros where weights are gone: {zeroed['agree']} agree within "
        f"{AGREES:.0e}, {len(zeroed['not_compared'])} cannot be compared, different: {differ}."
    )
    if found["behind"]:
        yield "Behind by more: " + ", ".join(f"{k} ({a:.1%}, {b:.1%})" for k, (a, b) in found["behind"].items()) + "."
    for key, what in (("seconds_analysis", "Analysis"), ("seconds", "All of it, with the certificate")):
        if f"median_{key}" in found:
            slow = ", ".join(f"{name} {value:.0f} s" for name, value in found[f"over_{SLOW:.0f}_{key}"].items())
            yield (
                f"{what}: {found[f'median_{key}']:.2f} s in the median, {found[f'max_{key}']:.1f} s at most"
                f"{f'; over {SLOW:.0f} s: {slow}' if slow else ''}."
            )


def _ours(cell: Cell) -> Cell:
    return lambda row: cell(row.get("slimtask", {}))


def _peers(cell: Cell) -> Cell:
    return lambda row: cell(row.get("peer", {}))


def _remark(row: Row) -> str:
    """Return slimtask's reason, or where it has none torch-pruning's error."""
    reason = text("reason")(row.get("slimtask", {}))
    error = text("reason", 120)(row.get("peer", {}))
    return reason or (f"torch-pruning: {error}" if error else "")


_COLUMNS: dict[str, Cell] = {
    "network": text("name"),
    "parameters": _ours(number("params_before", ",")),
    "status": _ours(text("status")),
    "removed": _ours(number("share", ".1%")),
    "torch-pruning": _peers(lambda row: number("share", ".1%")(row) if row.get("status") == "runs" else "fails"),
    "open / refused groups": _ours(lambda row: f"{row.get('groups_open', '-')} / {row.get('groups_refused', '-')}"),
    "analysis s": _ours(number("seconds_analysis", ".2f")),
    "all s": _ours(number("seconds", ".1f")),
    "certificate": _ours(number("certificate_max_rel_error", ".1e")),
    "reason": _remark,
}
_REASONS: dict[str, Cell] = {
    "reason": text("reason"),
    "networks": number("networks", ","),
    "groups": number("groups", ","),
    "channels": number("channels", ","),
    "parameters they touch": number("params", ","),
}
