"""Ideas of worth in closed form, and the proposal that a measurement finds nearest."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from slimtask.compress.latency.blocks import Block
from slimtask.compress.latency.choose import Chosen
from slimtask.compress.latency.propose import Proposals, worths_of
from slimtask.compress.latency.sensitivity import Damage
from slimtask.errors import InputError

GROUPS: Any = [SimpleNamespace(channels=4), SimpleNamespace(channels=2)]
DAMAGE = [Damage(counts=(1, 2, 4), distance=(0.75, 0.5, 0.0)), Damage(counts=(1, 2), distance=(1.0, 0.0))]


def test_damage_sums_up_as_what_is_kept_multiplies() -> None:
    worths = worths_of(GROUPS, DAMAGE, {})
    one, two = worths["damage"]
    for first, kept in ((1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)):
        left = np.exp(one[first] - one[4])  # of the outputs, with the first group cut alone
        assert left == pytest.approx(kept)
        both = np.exp(one[first] - one[4] + two[1] - two[2])
        assert both == pytest.approx(kept * 0.01)  # wrecked, though a little is left to tell cuts apart
    for name in ("damage", "root", "shares"):
        assert all((np.diff(curve) >= 0).all() for curve in worths[name])
    np.testing.assert_allclose(worths["root"][0] - worths["root"][0][4], -np.sqrt(one[4] - one))


def test_equal_shares_lose_equal_worth() -> None:
    one, two = worths_of(GROUPS, DAMAGE, {})["shares"]
    assert one[[0, 2, 4]].tolist() == two.tolist() == [0.0, 0.75, 1.0]


def test_a_block_that_goes_costs_once_what_it_was_measured_to() -> None:
    block = Block(name="b", groups=(0, 1), layers=frozenset())
    one, two = worths_of(GROUPS, DAMAGE, {block: 0.5})["damage"]
    assert np.exp(one[0] - one[4]) * np.exp(two[0] - two[2]) == pytest.approx(0.5)


@dataclass
class Asked:
    """A chooser by its answer."""

    answer: float | str


def ask(chooser: Any) -> Chosen:
    if isinstance(chooser.answer, str):
        raise InputError(chooser.answer)
    return Chosen(keep=(torch.ones(1, dtype=torch.bool),), predicted_ms={}, importance=chooser.answer)


def test_the_nearest_of_the_answers_is_taken_and_named() -> None:
    choosers: Any = {"a": Asked(0.3), "b": Asked("out of reach"), "c": Asked(0.1), "d": Asked(0.2)}
    proposals = Proposals(choosers, lambda chosen: chosen.importance)
    chosen = proposals(ask)
    assert (chosen.by, chosen.distance) == ("c", 0.1)
    assert proposals(ask, by="a").by == "a"
    with pytest.raises(InputError, match="out of reach"):
        proposals(ask, by="b")
    with pytest.raises(InputError, match="neither"):
        Proposals({"a": Asked("either"), "b": Asked("neither")}, lambda chosen: 0.0)(ask)  # type: ignore[dict-item]
