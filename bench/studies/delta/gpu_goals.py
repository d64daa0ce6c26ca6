"""The figures to reach on a GPU of the H200's class: bfloat16, T = 4, warm L2."""

from __future__ import annotations

from collections.abc import Callable

from slimtask.bench.studies.delta.report import Goal, Row

LIMIT = 2e-2  # bfloat16 products against float32, largest difference over largest value
_OURS = ("out-channels", "blocks-cuda", "blocks-triton", "csr")


def _layer(pattern: tuple[str, ...], density: float, rows: float) -> Callable[[Row], bool]:
    def of(row: Row) -> bool:
        same = (row["tasks"], row["rows"], row.get("l2")) == (4, rows, "warm") and abs(row["density"] - density) < 1e-9
        return same and row["pattern"] in pattern and row.get("form", "").startswith(_OURS)

    return of


def _goals() -> tuple[Goal, ...]:
    made = []
    for rows, graph, batched in ((0.0, 2.0, 1.8), (0.1, 1.9, 1.6), (0.3, 1.35, 1.15)):
        what, of = (
            f"structured or 64-block deltas of 5 %, {rows:.0%} rows",
            _layer(("out-channels", "block"), 0.05, rows),
        )
        made.append(Goal(what=f"{what}: T products in one graph", of=of, speedup=graph, error=LIMIT))
        over = "speedup_over_batched"
        made.append(Goal(what=f"{what}: one batched call", of=of, speedup=batched, error=LIMIT, key=over))
    unstructured = _layer(("unstructured",), 0.01, 0.0)
    made.append(Goal(what="unstructured at 99 %, no changed rows", of=unstructured, speedup=1.2, error=LIMIT))
    made.append(Goal(what="whole block, 10 % rows", of=_block, speedup=1.5, error=None))
    return tuple(made)


def _block(row: Row) -> bool:
    return bool(row["layer"] == "block" and row["rows"] == 0.1 and row.get("l2") == "warm")


GPU_GOALS = _goals()
