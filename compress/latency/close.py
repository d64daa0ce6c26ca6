"""The closing loop: targets follow the measurement until what was cut, exported and timed meets and uses the budgets.

The table is of single layers, so what it predicts of a whole network is off by some factor, which each try measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from slimtask.compress.latency.choose import Chosen
from slimtask.errors import InputError

_HASTE = 0.97  # after a miss a target shrinks by this more than its miss: measurements differ from run to run
_FURTHER = 2  # tries to use a budget better once it is met
WELL_USED = 0.92
"""A budget of which at least this share is used is not wasted: what less would buy is within a measurement's noise."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Closed(Generic[T]):
    """The best try: what was chosen, the milliseconds measured per path, what was made, whether all budgets are met.

    ``tries`` is the number of that try.
    """

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
    """Return the most important try whose measured latencies are within all ``budgets_ms`` (per path), else the last.

    ``choose(targets_ms)`` asks the program; ``make(chosen)`` cuts, exports and times, and returns the measured
    milliseconds per path with whatever it made. The next targets are the budgets in the program's own milliseconds,
    as the last try measured them: lower after a miss, higher after a try that used less than ``WELL_USED`` of every
    budget. It ends with a try that wastes nothing, a choice that was made before, two tries after the first that met
    the budgets, or after ``tries``. Raises InputError where ``choose`` does at first; later targets out of reach end
    the loop.
    """
    targets, known = dict(budgets_ms), set[tuple[int, ...]]()
    best: Closed[T] | None = None
    misses, first_met = 0, tries
    for attempt in range(1, tries + 1):
        try:
            chosen = choose(targets)
        except InputError:
            if best is None:
                raise
            break
        if chosen.kept in known:
            if best is not None and best.met:
                break
            targets = {path: 0.9 * target for path, target in targets.items()}
            continue
        known.add(chosen.kept)
        measured, made = make(chosen)
        used = {path: measured[path] / budget for path, budget in budgets_ms.items()}
        met = max(used.values()) <= 1
        first_met = attempt if met and first_met > attempt else first_met
        if best is None or not best.met or (met and chosen.importance > best.chosen.importance):
            best = Closed(chosen=chosen, measured_ms=measured, made=made, tries=attempt, met=met)
        if (met and max(used.values()) >= WELL_USED) or (best.met and attempt >= first_met + _FURTHER):
            break
        misses += not met
        targets = _next(targets, chosen.predicted_ms, used, misses)
    assert best is not None
    return best


def _next(
    targets: Mapping[str, float], predicted_ms: Mapping[str, float], used: Mapping[str, float], misses: int
) -> dict[str, float]:
    """Return the next targets: of every path that missed, or of all of them where none did, the budget as predicted.

    Predicted over measured is what the program's milliseconds are of real ones in this network.
    """
    missed = max(used.values()) > 1
    moved = {path: predicted_ms[path] / used[path] * _HASTE**misses for path in targets if used[path] > 1 or not missed}
    return {**targets, **moved}
