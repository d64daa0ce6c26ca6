"""The closing loop: targets shrink until what was really cut, exported and timed meets every latency budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from slimtask.compress.latency.choose import Chosen
from slimtask.errors import InputError

_HASTE = 0.95  # a target shrinks by this more than its miss: measurements differ from run to run

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Closed(Generic[T]):
    """The last try: what was chosen, the milliseconds measured per path, what was made, whether all budgets are met."""

    chosen: Chosen
    measured_ms: Mapping[str, float]
    made: T
    tries: int
    met: bool


def close_loop(
    choose: Callable[[Mapping[str, float]], Chosen],
    make: Callable[[Chosen], tuple[Mapping[str, float], T]],
    budgets_ms: Mapping[str, float],
    *,
    tries: int = 6,
) -> Closed[T]:
    """Return the first try whose measured latencies are within all ``budgets_ms`` (per path), else the last one.

    ``choose(targets_ms)`` asks the program; ``make(chosen)`` cuts, exports and times, and returns the measured
    milliseconds per path with whatever it made. After a miss the target of each path that missed shrinks by the ratio
    of budget to measurement. Raises InputError where ``choose`` does at first; later targets out of reach end the loop.
    """
    targets, last = dict(budgets_ms), None
    for attempt in range(1, tries + 1):
        try:
            chosen = choose(targets)
        except InputError:
            if last is None:
                raise
            return last
        measured, made = make(chosen)
        missed = [path for path, budget in budgets_ms.items() if measured[path] > budget]
        last = Closed(chosen=chosen, measured_ms=measured, made=made, tries=attempt, met=not missed)
        if not missed:
            return last
        for path in missed:
            targets[path] *= _HASTE * budgets_ms[path] / measured[path]
    assert last is not None
    return last
