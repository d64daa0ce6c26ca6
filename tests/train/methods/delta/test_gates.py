"""Deltas behind gates: the penalty in closed form, supports with their pattern, fixing that changes no output."""

from __future__ import annotations

import math

import pytest
import torch

from slimtask.compress.structures.patterns import HiddenUnits, Pattern, Unstructured, WholeTensor
from slimtask.train.methods.delta.config import GatesConfig
from slimtask.train.methods.delta.gates import GatedDelta, fitting
from slimtask.train.methods.delta.layout import Gated

OPEN = 1 / (1 + math.exp(-5))
SHAPES = {"fc.weight": (6, 4), "fc.bias": (6,), "out.weight": (4, 6)}


def layout(kind: str) -> dict[str, Gated]:
    if kind == "units":
        sides = {"fc.weight": "out", "fc.bias": "out", "out.weight": "in"}
        return {name: Gated(pattern=HiddenUnits(of="mlp", side=side), gates="mlp") for name, side in sides.items()}
    pattern: Pattern = Unstructured() if kind == "element" else WholeTensor()
    return {name: Gated(pattern=pattern, gates=name) for name in SHAPES}


def make(kind: str) -> tuple[GatedDelta, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    base = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    gated = GatedDelta(layout(kind), base, GatesConfig(kind=kind, density=0.5))
    with torch.no_grad():
        for delta in gated.deltas:
            delta.normal_()
        for alpha in gated.alphas:
            alpha.normal_()
        gated.alphas[0][0] = -1.0
        gated.alphas[-1][-1] = 1.0
    gated.seed(1)
    return gated, base


@pytest.mark.parametrize(("kind", "tensors"), [("element", 3), ("units", 0), ("tensor", 0)])
def test_the_penalty_at_the_start_is_its_closed_form(kind: str, tensors: int) -> None:
    base = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    gated = GatedDelta(layout(kind), base, GatesConfig(kind=kind, density=0.5))
    entries = 24 + 6 + 24
    assert float(gated.penalty().detach()) == pytest.approx((entries + tensors) * OPEN, rel=1e-5)
    assert gated.expected_entries() == pytest.approx(entries * OPEN ** (2 if tensors else 1), rel=1e-5)
    assert all(torch.equal(weight, base[name]) for name, weight in gated.weights(base).items())


@pytest.mark.parametrize("kind", ["element", "units", "tensor"])
def test_drawn_gates_depend_on_the_seed_and_medians_do_not(kind: str) -> None:
    gated, base = make(kind)
    gated.seed(5)
    one = gated.weights(base)
    gated.seed(5)
    two = gated.weights(base)
    assert all(torch.equal(one[name], two[name]) for name in one)
    gated.eval()
    first, second = gated.weights(base), gated.weights(base)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", ["element", "units", "tensor"])
def test_fixing_what_is_open_changes_no_weight_and_is_idempotent(kind: str) -> None:
    gated, base = make(kind)
    gated.eval()
    before = gated.weights(base)
    gated.fix_(None)
    after = gated.weights(base)
    for name in before:
        torch.testing.assert_close(after[name], before[name])
        assert torch.equal(gated.mask(name) & (after[name] != base[name]), after[name] != base[name])
        assert gated.layout[name].pattern.fits(gated.mask(name))
    assert not all(gated.mask(name).all() for name in before)
    changes = gated.changes()
    for name, change in changes.items():
        again = change.of(change.pattern, change.dense(), change.dense() != 0)
        assert torch.equal(again.kept, change.kept)
        assert torch.equal(base[name] + change.dense(), after[name])


def test_an_element_survives_if_its_gate_and_that_of_its_tensor_are_open() -> None:
    gated, _ = make("element")
    with torch.no_grad():
        gated.tensor_alphas.copy_(torch.tensor([2.0, -2.0, 2.0]))
    gated.fix_(None)
    assert not gated.mask("fc.bias").any()
    for name in ("fc.weight", "out.weight"):
        opened = gated.alphas[gated.gates[name]].detach().view(SHAPES[name]) > 0
        assert torch.equal(gated.mask(name), opened)


def test_a_budget_keeps_the_units_with_the_largest_logits() -> None:
    gated, _ = make("units")
    with torch.no_grad():
        gated.alphas[0].copy_(torch.tensor([3.0, -1.0, 2.0, -3.0, 1.0, 0.5]))
    gated.fix_(28.0)  # a unit has 4 + 1 + 4 entries
    assert gated.mask("fc.bias").nonzero().flatten().tolist() == [0, 2, 4]
    assert gated.expected_entries() == 27
    shares = {name: int(mask.sum()) for name, mask in ((n, gated.mask(n)) for n in SHAPES)}
    assert shares == {"fc.weight": 12, "fc.bias": 3, "out.weight": 12}


def products(gated: GatedDelta) -> dict[str, list[float]]:
    """Return for every element P(its gate is open) P(its tensor's is), by the closed form for stretch -1.5, 1.5."""
    whole = gated.tensor_alphas.tolist()
    return {
        name: [1 / (1 + math.exp(-a)) / (1 + math.exp(-whole[i])) for a in gated.alphas[gated.gates[name]].tolist()]
        for i, name in enumerate(SHAPES)
    }


@pytest.mark.parametrize("most", [5.0, 20.0, 35.0])
def test_a_budget_of_elements_counts_the_gates_of_their_tensors(most: float) -> None:
    gated, _ = make("element")
    with torch.no_grad():
        gated.tensor_alphas.copy_(torch.tensor([0.5, -2.0, 1.5]))
    chances = products(gated)
    assert gated.expected_entries() == pytest.approx(sum(map(sum, chances.values())), rel=1e-6)
    ranked = sorted(((p, name, i) for name, row in chances.items() for i, p in enumerate(row)), reverse=True)
    wanted = {(name, i) for _, name, i in ranked[: int(most)]}
    gated.fix_(most)
    kept = {(name, i) for name in SHAPES for i in gated.mask(name).flatten().nonzero().flatten().tolist()}
    assert kept == wanted
    assert gated.expected_entries() == most


def test_gates_that_are_surely_open_still_have_an_order() -> None:
    """Their chances of being open are all 1 in floating point, even in float64."""
    gated, _ = make("element")
    with torch.no_grad():
        gated.tensor_alphas.copy_(torch.tensor([60.0, 50.0, 70.0]))
        for alpha in gated.alphas:
            alpha.fill_(80.0)
    gated.fix_(24.0)
    assert gated.mask("out.weight").all()


def test_equal_logits_keep_what_changed_most() -> None:
    gated, _ = make("units")
    with torch.no_grad():
        gated.alphas[0].fill_(2.0)
        for delta in gated.deltas:
            delta.fill_(0.1)
        gated.deltas[1][3] = 9.0
    gated.fix_(9.0)
    assert gated.mask("fc.bias").nonzero().flatten().tolist() == [3]


def test_units_that_do_not_fit_are_left_out() -> None:
    assert fitting(torch.tensor([5.0, 9.0, 3.0, 2.0]), 10.0).tolist() == [True, False, True, True]
    assert fitting(torch.tensor([4.0, 4.0, 4.0]), 9.0).tolist() == [True, True, False]
    assert fitting(torch.tensor([4.0]), 3.0).tolist() == [False]
