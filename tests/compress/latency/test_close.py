"""The closing loop: targets shrink by what was measured, path by path, until all budgets are met or tries run out."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from slimtask.compress.latency.choose import Chosen
from slimtask.compress.latency.close import close_loop
from slimtask.errors import InputError


def fake(targets: Mapping[str, float]) -> Chosen:
    """Take exactly what the targets allow: a channel is a thousandth of a millisecond."""
    kept = round(1000 * sum(targets.values()))
    return Chosen(keep=(torch.arange(30_000) < kept,), predicted_ms=dict(targets), importance=kept / 30_000)


@pytest.mark.parametrize(("slower", "tries"), [(1.0, 1), (1.3, 2)])
def test_the_loop_tightens_the_targets_until_the_measurement_fits(slower: float, tries: int) -> None:
    def make(chosen: Chosen) -> tuple[dict[str, float], str]:
        return {path: slower * ms * (1 - 1e-9) for path, ms in chosen.predicted_ms.items()}, f"net {chosen}"

    closed = close_loop(fake, make, {"all": 2.0})
    assert closed.met
    assert closed.tries == tries
    assert closed.measured_ms["all"] <= 2.0
    assert closed.made == f"net {closed.chosen}"


def test_only_the_path_that_missed_is_tightened() -> None:
    asked: list[dict[str, float]] = []

    def make(chosen: Chosen) -> tuple[dict[str, float], int]:
        asked.append(dict(chosen.predicted_ms))
        return {"all": 0.9 * asked[-1]["all"], "depth": 1.25 * asked[-1]["depth"]}, len(asked)

    closed = close_loop(fake, make, {"all": 8.0, "depth": 4.0})
    assert (closed.met, closed.tries, closed.made) == (True, 2, 2)
    assert [targets["all"] for targets in asked] == [8.0, 8.0]
    assert 0.9 * 4.0 / 1.25 <= asked[1]["depth"] <= 4.0 / 1.25


def test_the_loop_gives_up_honestly() -> None:
    closed = close_loop(fake, lambda _: ({"all": 5.0}, None), {"all": 2.0}, tries=4)
    assert (closed.met, closed.tries, closed.measured_ms) == (False, 4, {"all": 5.0})

    def refuses(targets: Mapping[str, float]) -> Chosen:
        if targets["all"] < 2.0:
            raise InputError("too small")
        return fake(targets)

    closed = close_loop(refuses, lambda _: ({"all": 5.0}, None), {"all": 2.0})
    assert (closed.met, closed.tries) == (False, 1)
    with pytest.raises(InputError, match="too small"):
        close_loop(refuses, lambda _: ({"all": 5.0}, None), {"all": 1.0})


def test_a_budget_is_used_not_undercut() -> None:
    """8.8 ms asked and 5.4 delivered is a network smaller than it had to be."""

    def make(chosen: Chosen) -> tuple[dict[str, float], float]:
        return {"all": 0.6 * chosen.predicted_ms["all"]}, chosen.predicted_ms["all"]

    closed = close_loop(fake, make, {"all": 8.8})
    assert closed.met
    assert 0.92 * 8.8 <= closed.measured_ms["all"] <= 8.8
    assert closed.tries <= 3


def test_after_a_miss_that_follows_a_waste_the_try_that_met_is_returned() -> None:
    measured = iter([0.6, 1.2, 1.1, 1.05, 1.02, 1.01])
    closed = close_loop(fake, lambda _: ({"all": 10 * next(measured)}, None), {"all": 10.0})
    assert (closed.met, closed.tries, closed.measured_ms) == (True, 1, {"all": 6.0})
