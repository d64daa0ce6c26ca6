"""Differences against arithmetic done by hand; what is no number must be equal."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from slimtask.compress.proof.compare import Comparison, difference

INF, NAN = float("inf"), float("nan")
T = torch.tensor


@pytest.mark.parametrize(
    ("one", "other", "relative"),
    [
        (T([1.0, -4.0]), T([1.0, -3.0]), 0.25),
        (T([1.0, -INF]), T([1.0, -INF]), 0.0),
        (T([1.0, -INF]), T([1.0, INF]), INF),
        (T([1.0, NAN]), T([1.5, NAN]), 0.5),
        (T([1.0, NAN]), T([NAN, 1.0]), INF),
        (T([1.0, NAN]), T([1.0, INF]), INF),
        (torch.zeros(0, 4), torch.zeros(0, 4), 0.0),
        (torch.zeros(0, 4), torch.zeros(1, 4), INF),
        (T([True, False]), T([True, False]), 0.0),
        (T([True, False]), T([True, True]), INF),
        (T([1]), T([2]), INF),
        (T([1.0]), T([1.0]).double(), INF),
        (T([1]), T([1.0]), INF),
        (T([3 + 4j]), T([3 + 3j]), 0.2),
        (T([complex(INF, 0)]), T([complex(-INF, 0)]), INF),
        (T(0.0), T(0.0), 0.0),
        (2.0, 1.0, 0.5),
        (NAN, NAN, 0.0),
        ("a", "a", 0.0),
        ("a", "b", INF),
        (1, True, INF),
        (None, T(1.0), INF),
    ],
)
def test_difference(one: Any, other: Any, relative: float) -> None:
    found, words = difference(one, other)
    assert found.max_rel == pytest.approx(relative)
    assert bool(words) == math.isinf(relative)


def test_outputs_must_be_the_same_ones() -> None:
    for expected, got in (({"a": T(1.0)}, {}), ({}, {"a": T(1.0)})):
        comparison = Comparison()
        comparison.add_(expected, got)
        assert comparison.worst["a"].max_rel == INF
        assert "only the network" in comparison.words["a"]


def test_a_reference_that_is_never_finite_is_no_proof() -> None:
    comparison = Comparison()
    comparison.add_(
        {"a": T([NAN]), "b": T([NAN]), "c": torch.zeros(0)}, {"a": T([NAN]), "b": T([NAN]), "c": torch.zeros(0)}
    )
    comparison.add_({"a": T([NAN]), "b": T([1.0])}, {"a": T([NAN]), "b": T([1.0])})
    comparison.finish_()
    assert [comparison.worst[name].max_rel for name in "abc"] == [INF, 0.0, 0.0]
    assert "never" in comparison.words["a"]
