"""Which answers a module's size calls need, from what stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slimtask.compress.graph.coupling import couple
from slimtask.compress.network.trace import record
from slimtask.compress.removal.fixes import size_fixes, valued
from slimtask.compress.removal.sized import SizeFix
from tests.compress.halves import net

GONE = (1, 6, 7)  # of the eight channels


def fixes(code: Callable[[Tensor], Tensor]) -> list[SizeFix]:
    """Return the answers that ``code`` on [2, 8, 5] needs once ``GONE`` are gone."""
    model = net(lambda s, x: code(s.a(x)), a=nn.Conv1d(2, 8, 1))
    coupling = couple(record(model, torch.zeros(2, 2, 5)))
    (axis,) = (axis for axis in coupling.labels.axes if (axis.tensor, axis.axis) == ("a.weight", 0))
    kept = ~np.isin(coupling.classes, coupling.classes[axis.atoms[list(GONE)]])
    found = size_fixes(coupling, kept)
    return list(found[""].fixes) if found else []


def answers(code: Callable[[Tensor], Tensor], kind: str) -> list[dict[int, tuple[int, ...]]]:
    return [dict(fix.values) for fix in fixes(code) if fix.kind == kind]


@pytest.mark.parametrize(
    ("code", "kind", "expected"),
    [
        (lambda y: y.split([3, 5], 1)[0], "split", [{1: (2, 3)}]),
        (lambda y: y.chunk(4, 1)[1], "split", [{1: (1, 2, 2, 0)}]),
        (lambda y: y[:, 2:6], "index", [{1: (1, 2, 3, 4)}]),
        (lambda y: y[..., ::2, :], "index", [{1: (0, 1, 3)}]),
        (lambda y: y[:, -3], "index", [{1: (4,)}]),
        (lambda y: y.narrow(1, 4, 3), "index", [{1: (3, 4)}]),
        (lambda y: y + torch.zeros(8, 1), "factory", [{0: (0, 2, 3, 4, 5)}]),
        (lambda y: y + torch.arange(8)[:, None], "factory", [{0: (0, 2, 3, 4, 5)}]),
    ],
    ids=["split", "chunk", "slice", "step", "number", "narrow", "zeros", "arange"],
)
def test_answers_are_those_of_the_channels_that_stay(
    code: Callable[[Tensor], Tensor], kind: str, expected: list[dict[int, tuple[int, ...]]]
) -> None:
    assert answers(code, kind) == expected


@pytest.mark.parametrize(
    "code",
    [
        lambda y: y[:1],
        lambda y: y[..., 2:],
        lambda y: y.split(2, 2)[0],
        lambda y: y + torch.zeros(5),
        lambda y: y.relu(),
    ],
    ids=["images", "places", "places split", "a row", "no call"],
)
def test_what_does_not_touch_the_channels_needs_no_answer(code: Callable[[Tensor], Tensor]) -> None:
    assert fixes(code) == []


def test_a_shape_is_answered_by_what_it_was() -> None:
    (fix,) = fixes(lambda y: y * y.shape[1])
    assert fix.kind == "shape"
    assert dict(fix.values)[1][0] == 8


@pytest.mark.parametrize(("code", "told"), [(torch.arange, {""}), (torch.ones, set()), (torch.randn, {""})])
def test_only_tensors_with_entries_that_differ_have_to_be_answered(
    code: Callable[[int], Tensor], told: set[str]
) -> None:
    model = net(lambda s, x: s.a(x) + code(8)[:, None], a=nn.Conv1d(2, 8, 1))
    coupling = couple(record(model, torch.zeros(2, 2, 5)))
    kept = np.ones(len(coupling.classes), bool)
    assert valued(coupling, kept) == set()
    (axis,) = (axis for axis in coupling.labels.axes if (axis.tensor, axis.axis) == ("a.weight", 0))
    kept = coupling.classes != coupling.classes[axis.atoms[3]]
    assert valued(coupling, kept) == told
