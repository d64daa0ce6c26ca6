"""A relation: its averages, its matrix and its agreement, by hand."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from slimtask.train.relate.relation import Relation, statistics


def test_one_seed_has_no_spread_and_what_is_undefined_is_null() -> None:
    assert statistics(np.array([0.5])) == {"mean": 0.5, "spread": None, "seeds": [0.5]}
    assert statistics(np.array([0.5, np.nan])) == {"mean": None, "spread": None, "seeds": [None, None]}


def test_sparsities_that_count_are_averaged_by_seed_and_make_a_matrix(relation: Relation) -> None:
    np.testing.assert_allclose(relation.per_seed(), [[0.7, 0.3, 0.3], [0.6, 0.1, 0.3]])
    matrix = relation.matrix(np.array([0.65, 0.2, 0.3]))
    np.testing.assert_allclose(matrix, [[1, 0.65, 0.2], [0.65, 1, 0.3], [0.2, 0.3, 1]])


def test_seeds_that_suggest_the_same_groups_are_counted(relation: Relation) -> None:
    assert set(relation.grouping().groups) == {("a", "b"), ("c",)}
    assert relation.agreement() == 2
    values = relation.values["mcss", "equal"].copy()
    values[0] = [[0.0, 0.0, 0.9]] * 3  # this seed would put b beside c
    other = dataclasses.replace(relation, values={**relation.values, ("mcss", "equal"): values})
    assert other.agreement() == 1


def test_a_summary_is_json_with_the_spread_over_seeds(relation: Relation) -> None:
    summary = json.loads(json.dumps(relation.summary(), allow_nan=False))
    first = summary["similarities"][0]
    assert first["tasks"] == ["a", "b"]
    assert first["mean"] == pytest.approx(0.65)
    assert first["spread"] == pytest.approx(0.1 / 2**0.5)
    assert first["per_sparsity"]["0.3"]["mean"] == pytest.approx(0.2)
    assert summary["averaged_over"] == [0.5, 0.7]
    assert summary["layer_similarities"][0]["per_sparsity"]["0.7"] == pytest.approx([0.6])
