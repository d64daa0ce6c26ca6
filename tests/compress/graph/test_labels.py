"""Labels against sets of sets: what is tied, directly or not, is one channel; what is pinned or a place is told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimtask.compress.graph.labels import Labels, along, finest


def test_every_index_of_an_axis_longer_than_one_has_a_number_of_its_own() -> None:
    labels = Labels()
    layers = labels.leaf("w", (3, 1, 2))
    assert [layer.shape for layer in layers] == [(3, 1, 1), (1, 1, 2)]
    assert [(axis.tensor, axis.axis, axis.size) for axis in labels.axes] == [("w", 0, 3), ("w", 2, 2)]
    assert np.concatenate([axis.atoms for axis in labels.axes]).tolist() == [1, 2, 3, 4, 5]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_classes_are_those_of_merged_sets(pairs: list[tuple[int, int]]) -> None:
    labels = Labels()
    (atoms,) = labels.leaf("w", (10,))
    sets = [{index} for index in range(10)]
    for one, other in pairs:
        labels.tie(atoms[[one]], atoms[[other]])
        merged = next(s for s in sets if one in s) | next(s for s in sets if other in s)
        sets = [s for s in sets if not s & merged] + [merged]
    classes = labels.classes()[atoms]
    assert all((classes[a] == classes[b]) == any({a, b} <= s for s in sets) for a in range(10) for b in range(10))


@pytest.mark.parametrize("swapped", [False, True])
def test_a_label_that_meets_none_is_pinned(swapped: bool) -> None:
    labels = Labels()
    (atoms,) = labels.leaf("w", (3,))
    met = np.array([0, 0, atoms[0]])
    labels.tie(*((met, atoms) if swapped else (atoms, met)))
    classes = labels.classes()
    assert classes[atoms[0]] == classes[atoms[2]]
    reasons = labels.reasons(classes)
    assert set(reasons) == {classes[atom] for atom in atoms[:2]}
    assert set(reasons.values()) == {"they meet channels of a fixed number"}


def test_a_sum_ties_equal_axes_and_pins_what_meets_a_fixed_size() -> None:
    labels = Labels()
    one, other = labels.leaf("a", (2, 4)), labels.leaf("b", (4,))
    result = labels.elementwise([(one, (2, 4)), (other, (4,))])
    classes = labels.classes()
    assert np.array_equal(classes[labels.axes[1].atoms], classes[labels.axes[2].atoms])
    assert len(set(classes[labels.axes[0].atoms])) == 2
    assert {tuple(layer.shape) for layer in result} == {(2, 1), (1, 4)}
    assert labels.elementwise([(labels.leaf("c", (5,)), (5,)), ([], (5,))]) == []
    assert len(labels.reasons(labels.classes())) == 5


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4)])
def test_an_axis_seen_as_several_loses_whole_lines(shape: tuple[int, ...]) -> None:
    """What stays must be a box: along all but the longest axis everything is one."""
    labels = Labels()
    count = int(np.prod(shape))
    (atoms,) = labels.leaf("w", (count,))
    box = atoms.reshape(shape)
    labels.product(box)
    labels.tie_products()
    classes = labels.classes()[box]
    assert (classes == classes[(0,) * (len(shape) - 1)]).all()
    assert len(np.unique(classes)) == shape[-1]


def test_taps_and_what_the_network_makes_are_places() -> None:
    labels = Labels()
    kernel = labels.leaf("w", (2, 3, 5, 5))
    assert [labels.is_weak(layer) for layer in kernel] == [False, False, True, True]
    assert labels.is_weak(labels.fresh((7,))[0])
    assert len(labels.axes) == 4  # what it makes is no axis of a parameter


def test_an_axis_by_which_weights_read_and_write_is_no_mere_input() -> None:
    labels = Labels()
    (one,), (two,) = labels.leaf("a", (2,)), labels.leaf("b", (2,))
    labels.note_input(one)
    labels.note_input(two)
    labels.note_output(two)
    assert labels.reading().nonzero()[0].tolist() == one.tolist()
    assert labels.written_classes(labels.classes()) == set(labels.classes()[two].tolist())


def test_the_finest_layer_of_an_axis_stays() -> None:
    fine, coarse = np.arange(1, 7).reshape(2, 3), np.array([[7], [8]])
    assert finest([coarse, fine, np.array([[9]])]) == [fine]
    assert along([coarse, fine], 1) is fine
    assert along([coarse], 1) is None
