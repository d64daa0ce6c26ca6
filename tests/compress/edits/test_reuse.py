"""What a pass takes from another, by the formulas."""

from __future__ import annotations

import math

import pytest
import torch

from slimtask.compress.edits.reuse import Record, Reuse, above_threshold
from slimtask.compress.structures.delta import Execution

BASE = {"0.attention": torch.zeros(1, 4, 2), "0.qkv": torch.ones(1, 4, 6)}
OWN = torch.tensor([[[0.0, 0.1], [3.0, 0.0], [0.2, 0.2], [1.0, 1.0]]])


def test_a_threshold_is_its_formula() -> None:
    value, base = torch.tensor([1.0, 1.1, 0.5, 2.0]), torch.ones(4)
    assert above_threshold(value, base, 0.2).tolist() == [1.0, 1.0, 0.5, 2.0]
    assert above_threshold(value, base, 0.5).tolist() == [1.0, 1.0, 0.5, 2.0]  # a difference of just so much stays
    assert torch.equal(above_threshold(value, base, 0.0), value)
    assert torch.equal(above_threshold(value, base, math.inf), base)


def recorded() -> Record:
    record = Record(True)
    for site, value in BASE.items():
        assert record(site, value) is value
    return record


def test_what_passes_is_remembered_only_when_asked() -> None:
    assert recorded().sites.keys() == BASE.keys()
    quiet = Record()
    quiet("0.qkv", OWN)
    assert quiet.sites == {}


@pytest.mark.parametrize(
    ("execution", "rows"),
    [(Execution(feed="base"), []), (Execution(), [0, 1, 2, 3]), (Execution(rows=0.5), [1, 3])],
    ids=["base", "own", "half of the rows"],
)
def test_a_branch_reads_the_rows_that_moved_most_and_the_bases_elsewhere(execution: Execution, rows: list[int]) -> None:
    read = Reuse(recorded(), execution)("0.attention", OWN)
    expected = BASE["0.attention"].clone()
    expected[:, rows] = OWN[:, rows]
    assert torch.equal(read, expected)


def test_values_are_watched_before_any_is_dropped() -> None:
    seen: list[tuple[str, float]] = []
    value = torch.full((1, 4, 6), 1.05)
    execution = Execution(thresholds={"0.qkv": 0.1})
    reuse = Reuse(recorded(), execution, watch=lambda site, base, own: seen.append((site, float((own - base).max()))))
    assert torch.equal(reuse("0.qkv", value), BASE["0.qkv"])
    assert [site for site, _ in seen] == ["0.qkv"]
    assert seen[0][1] > 0.04
    assert torch.equal(Reuse(recorded(), execution, thresholds=False)("0.qkv", value), value)
