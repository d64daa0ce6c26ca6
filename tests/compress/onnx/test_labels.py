"""Classes of labels against a plain search through the joins."""

import numpy as np
import pytest

from slimtask.compress.onnx.labels import Labels


def reached(start, joins):
    found, todo = {start}, [start]
    while todo:
        label = todo.pop()
        for a, b in joins:
            for one, other in ((a, b), (b, a)):
                if one == label and other not in found:
                    found.add(other)
                    todo.append(other)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_joined_labels_are_one_class(seed):
    rng = np.random.default_rng(seed)
    labels = Labels()
    made = [labels.fresh(int(size), f"node {i}") for i, size in enumerate(rng.integers(1, 8, 6))]
    total = sum(map(len, made))
    joins = rng.integers(0, total, (total // 2, 2))
    labels.join(joins[:, 0], joins[:, 1])
    held = rng.integers(0, total, 2)
    labels.hold(held, "because")
    classes = labels.classes()
    owner = np.concatenate([np.full(len(one), i) for i, one in enumerate(made)])
    for label in range(total):
        together = reached(label, joins.tolist())
        assert {int(i) for i in np.flatnonzero(classes.of == classes.of[label])} == together
        of = classes.of[label]
        assert (classes.held[of] == 0) == bool(together & set(held.tolist()))
        assert classes.groups[classes.group[of]] == tuple(f"node {i}" for i in sorted({owner[i] for i in together}))


def test_the_first_reason_holds():
    labels = Labels()
    made = labels.fresh(3, "node")
    labels.hold(made[:2], "one")
    labels.hold(made[1:], "two")
    classes = labels.classes()
    assert [classes.reasons[why] for why in classes.held] == ["one", "one", "two"]


def test_no_labels_no_classes():
    assert len(Labels().classes()) == 0
