"""A relation: its averages, its matrix and its agreement, by hand."""

from __future__ import annotations

import numpy as np

from slimtask.train.relate.relation import statistics


def test_one_seed_has_no_spread_and_what_is_undefined_is_null() -> None:
    assert statistics(np.array([0.5])) == {"mean": 0.5, "spread": None, "seeds": [0.5]}
    assert statistics(np.array([0.5, np.nan])) == {"mean": None, "spread": None, "seeds": [None, None]}
