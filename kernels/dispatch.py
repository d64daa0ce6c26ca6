"""Dispatch: which candidate executes a layer of base and sub-tasks, by measured costs, else by floors.

Dense is a legal answer, and logged. Nothing is timed here: ``slimtask.kernels.costs.measure`` fills the costs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from slimtask.kernels.candidates import CANDIDATES, Candidate, candidate
from slimtask.kernels.costs import Costs
from slimtask.kernels.problem import Problem

__all__ = ["Choice", "Expectation", "Problem", "choose", "explain"]

CSR_DENSITY_LIMIT = 0.01  # on a GPU above it CSR is behind dense products unless a measurement says otherwise
_LOG = logging.getLogger(__name__)

Source = Literal["measured", "floor"]


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What is expected of one candidate: ``ms`` and where it comes from, or why it is ``excluded``."""

    candidate: str
    floor_ms: float | None = None
    ms: float | None = None
    source: Source | None = None
    note: str = ""
    excluded: str | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The candidate to take; ``alternatives`` are all candidates, it included, fastest first and excluded ones last."""

    problem: Problem
    candidate: str
    expected_ms: float
    source: Source
    alternatives: tuple[Expectation, ...]

    @property
    def dense(self) -> bool:
        """Return whether T dense models are the answer."""
        return candidate(self.candidate).form == "merged"

    def explain(self) -> str:
        """Return a table of every candidate: expected time, speed-up over batched dense, source, and why or why not."""
        batched = next(each.ms for each in self.alternatives if each.candidate == "batched")
        rows = [("", "candidate", "ms", "over batched", "source", "why")]
        for each in self.alternatives:
            mark = "->" if each.candidate == self.candidate else ""
            if each.ms is None:
                rows.append((mark, each.candidate, "-", "-", "-", f"excluded: {each.excluded}"))
            else:
                ratio = f"{batched / each.ms:.2f}x" if batched else "-"
                rows.append((mark, each.candidate, f"{each.ms:.4g}", ratio, each.source or "", each.note))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = ["  ".join([*map(str.ljust, row[:5], widths), row[5]]).rstrip() for row in rows]
        ceilings = self.problem.ceilings
        known = (
            f"floors: {ceilings.of}" if ceilings.known else f"floors: {ceilings.of}, not this device: only their order"
        )
        return "\n".join([str(self.problem), known, *lines])


def choose(problem: Problem, costs: Costs | None = None) -> Choice:
    """Return the candidate that executes ``problem`` exactly in the shortest expected time.

    ``costs`` are those measured on the problem's device (default: its file, if there is one). Where they cover the
    problem they count; elsewhere it is the floor over the efficiency of the nearest measurement. Raises ValueError for
    costs of another device and for a damaged file.
    """
    costs = Costs.load(problem.device) if costs is None else costs
    if costs.device != problem.device:
        raise ValueError(f"the costs are those of {costs.device}, the problem runs on {problem.device}; measure there.")
    found = [_expectation(each, problem, costs) for each in CANDIDATES]
    ordered = sorted(found, key=lambda each: float("inf") if each.ms is None else each.ms)
    best = ordered[0]
    if best.ms is None or best.source is None:  # dense executes everything, so this would be a bug of the table
        raise AssertionError("no candidate is left")
    choice = Choice(
        problem=problem,
        candidate=best.candidate,
        expected_ms=best.ms,
        source=best.source,
        alternatives=tuple(ordered),
    )
    if choice.dense:
        _log_dense(choice)
    return choice


def explain(problem: Problem, costs: Costs | None = None) -> str:
    """Return ``choose(problem, costs)`` as a table of every candidate, for people."""
    return choose(problem, costs).explain()


def _expectation(chosen: Candidate, problem: Problem, costs: Costs) -> Expectation:
    excluded = chosen.excluded(problem)
    if excluded:
        return Expectation(candidate=chosen.name, excluded=excluded)
    floor_ms, ms = chosen.floor_ms(problem), costs.measured_ms(chosen, problem)
    if ms is not None:
        return Expectation(candidate=chosen.name, floor_ms=floor_ms, ms=ms, source="measured", note=chosen.does)
    on_cuda = problem.device.backend == "cuda"
    if chosen.name == "csr" and on_cuda and problem.density > CSR_DENSITY_LIMIT:
        return Expectation(
            candidate=chosen.name, floor_ms=floor_ms, excluded="not measured, and above 1 % it is behind"
        )
    ms, note = _unmeasured(chosen, problem, costs)
    return Expectation(candidate=chosen.name, floor_ms=floor_ms, ms=ms, source="floor", note=note)


def _unmeasured(chosen: Candidate, problem: Problem, costs: Costs) -> tuple[float, str]:
    """The time to expect where no measurement covers the problem, and why that."""
    own = costs.nearest(chosen, problem)
    if own is not None:
        ms = chosen.floor_ms(problem) / own.efficiency
        return ms, f"outside what was measured: floor over {own.efficiency:.2g}, reached at {own.place}"
    expected_ms, other = chosen.expected_ms(problem), costs.borrowed(problem)
    what = "floor" if chosen.reached == 1 else f"floor with deltas at {chosen.reached:g} of their ceiling"
    if other is None:
        return expected_ms, f"not measured: {what}"
    # Next to measured times a bare floor would win by being a floor.
    share, where = other.efficiency, f"{other.candidate}: {other.place}"
    return expected_ms / share, f"not measured: {what} over {share:.2g}, the least dense products reach ({where})"


def _log_dense(choice: Choice) -> None:
    others = [each for each in choice.alternatives if each.ms and candidate(each.candidate).form != "merged"]
    best = f"; the best delta form, {others[0].candidate}, {others[0].ms:.4g} ms" if others else "; no delta form fits"
    _LOG.info("%s: %s, %.4g ms (%s)%s", choice.problem, choice.candidate, choice.expected_ms, choice.source, best)
