"""What the papers claim of their methods, and what the rows of the comparison say about it, by t intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slimtask.bench.studies.intervals import t_interval
from slimtask.bench.studies.methods.plan import ADASHARE, DENSE, RANDOM
from slimtask.bench.studies.methods.rows import Row, gaps_of, grouped, spread


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a paper claims: ``method`` at ``sparsity`` is at most ``grants`` per cent behind ``other`` at ``at``."""

    method: str
    sparsity: float = 0.0
    other: str = DENSE
    at: float = 0.0
    grants: float = 0.0

    def __str__(self) -> str:
        first, second = (
            name if not level else f"{name} at {level:.0%}"
            for name, level in ((self.method, self.sparsity), (self.other, self.at))
        )
        return f"{first} is {f'at most {self.grants:g} % ' if self.grants else 'not '}behind {second}"


CLAIMS = (
    *(
        Claim(method=f"group sparsity, {groups}{p}", sparsity=0.7)
        for groups in ("coupled", "input-channel")
        for p in ("", ", mcp")
    ),
    *(
        Claim(method="disparse static", sparsity=0.9, other=other, at=0.9)
        for other in ("snip static", "random static", "magnitude pretrained")
    ),
    Claim(method="disparse pretrained, gradient", sparsity=0.9, other="magnitude pretrained", at=0.9),
    Claim(method="disparse dynamic", sparsity=0.9, other="snip static", at=0.9),
    Claim(method=ADASHARE, grants=1.0),
    Claim(method=ADASHARE, other=RANDOM),
)

CLAIMED = {side for claim in CLAIMS for side in ((claim.method, claim.sparsity), (claim.other, claim.at))}
"""The methods and sparsities that a claim is about: they take more seeds than the rest."""


def claims_table(dataset: str, rows: Sequence[Row]) -> str:
    """Return the claims as a table: the differences of runs of the same seed, their interval, and what it says."""
    groups = grouped([row for row in rows if row["dataset"] == dataset])
    tasks = sorted({task for group in groups.values() for row in group for task in row["changes"]})
    heads = ["claim", "difference in delta_m", "95 % interval", "seeds", "holds", *tasks]
    lines = [f"\n| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for claim in CLAIMS:
        mine, theirs = (groups.get(key, []) for key in ((claim.method, claim.sparsity), (claim.other, claim.at)))
        gaps = gaps_of(mine, theirs)
        if gaps:
            cells = [str(claim), *_verdict(gaps, -claim.grants)]
            cells += [spread(gaps_of(mine, theirs, task)) for task in tasks]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _verdict(gaps: Sequence[float], bound: float) -> list[str]:
    won = f"{sum(gap >= bound for gap in gaps)} of {len(gaps)}"
    if len(gaps) < 2:
        return [spread(gaps), "-", won, "one seed"]
    low, high = t_interval(gaps)
    holds = "yes" if low >= bound else "no" if high < bound else "open"
    return [spread(gaps), f"{low:+.2f} to {high:+.2f}", won, holds]
