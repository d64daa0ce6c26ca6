"""Patterns against brute force: every entry's unit is written out by hand."""

from __future__ import annotations

import itertools

import pytest
import torch

from slimtask.compress.structures.patterns import (
    Block,
    Heads,
    HiddenUnits,
    InChannels,
    OutChannels,
    Rows,
    Unstructured,
    WholeTensor,
)
from slimtask.errors import InputError

# pattern, shape, unit of the entry at an index
CASES = [
    (Unstructured(), (3, 4), lambda i, j: i * 4 + j),
    (WholeTensor(), (3, 4), lambda i, j: 0),
    (OutChannels(), (3, 4), lambda i, j: i),
    (OutChannels(), (5,), lambda i: i),
    (OutChannels(), (3, 2, 2, 2), lambda i, j, k, m: i),
    (InChannels(), (3, 4), lambda i, j: j),
    (HiddenUnits(of="mlp", side="out"), (6, 2), lambda i, j: i),
    (HiddenUnits(of="mlp", side="in"), (2, 6), lambda i, j: j),
    (Heads(of="a", side="out", width=2), (12, 3), lambda i, j: (i % 4) // 2),  # q, k, v of two heads of two channels
    (Heads(of="a", side="out", width=2), (12,), lambda i: (i % 4) // 2),
    (Heads(of="a", side="in", width=2), (3, 4), lambda i, j: j // 2),
    (Block(height=2, width=3), (5, 7), lambda i, j: (i // 2) * 3 + j // 3),
    (Block(height=2, width=3), (5,), lambda i: i // 2),
    (Block(height=2, width=3), (3, 2, 2, 1), lambda i, j, k, m: (i // 2) * 2 + (j * 2 + k) // 3),
]


@pytest.mark.parametrize(("pattern", "shape", "unit"), CASES)
def test_units_are_those_of_brute_force(pattern, shape, unit) -> None:
    torch.manual_seed(0)
    entries = torch.randn(shape)
    places = list(itertools.product(*map(range, shape)))
    count = 1 + max(unit(*place) for place in places)
    assert pattern.units(shape) == count
    sums, sizes = [0.0] * count, [0] * count
    for place in places:
        sums[unit(*place)] += float(entries[place])
        sizes[unit(*place)] += 1
    torch.testing.assert_close(pattern.reduce(entries), torch.tensor(sums))
    assert pattern.sizes(shape).tolist() == sizes
    values = torch.randn(count)
    expanded = pattern.expand(values, shape)
    assert expanded.shape == shape
    assert all(expanded[place] == values[unit(*place)] for place in places)


@pytest.mark.parametrize(("pattern", "shape", "unit"), CASES)
def test_a_projection_has_the_pattern_and_its_budget(pattern, shape, unit) -> None:
    torch.manual_seed(1)
    scores, count = torch.rand(shape), pattern.units(shape)
    mask = pattern.project(scores, 0.5)
    assert pattern.fits(mask)
    assert int(pattern.kept(mask).sum()) == round(0.5 * count) == pattern.cost(mask).indices
    assert torch.equal(pattern.project(mask.float(), 0.5), mask)  # idempotent
    kept = pattern.kept(mask)
    if 0 < kept.sum() < count:
        assert pattern.reduce(scores)[kept].min() >= pattern.reduce(scores)[~kept].max()
    assert pattern.cost(mask).values == int(mask.sum())
    assert pattern.density(mask) == pytest.approx(int(mask.sum()) / mask.numel())


def test_a_broken_unit_does_not_fit() -> None:
    mask = torch.zeros(12, 3, dtype=torch.bool)
    mask[0] = True  # a query of a head without its keys and values
    assert not Heads(of="a", side="out", width=2).fits(mask)
    assert OutChannels().fits(mask)


def test_a_shape_without_such_units_is_refused() -> None:
    with pytest.raises(InputError, match=r"\[10, 3\] has no units"):
        Heads(of="a", side="out", width=4).units((10, 3))
    with pytest.raises(InputError, match="no units"):
        InChannels().units((4,))


@pytest.mark.parametrize(("budget", "count"), [(0.0, 0), (0.3, 2), (1.0, 5)])
def test_rows_are_chosen_image_by_image(budget: float, count: int) -> None:
    torch.manual_seed(2)
    change = torch.randn(3, 5, 4)
    mask = Rows.project(change, budget)
    assert mask.shape == (3, 5, 1)
    for image, rows in zip(change, mask[..., 0], strict=True):
        best = sorted(range(5), key=lambda row: -float(image[row].norm()))[:count]
        assert set(rows.nonzero().flatten().tolist()) == set(best)
