"""A relation whose similarities were written down by hand."""

from __future__ import annotations

import numpy as np
import pytest

from slimtask.train.relate.config import METRICS, WEIGHTINGS, RelateConfig
from slimtask.train.relate.relation import Relation

VALUES = np.array(  # two seeds, three sparsities, pairs ab, ac, bc
    [[[0.1, 0.9, 0.2], [0.8, 0.2, 0.4], [0.6, 0.4, 0.2]], [[0.3, 0.3, 0.3], [0.6, 0.2, 0.2], [0.6, 0.0, 0.4]]]
)


@pytest.fixture
def relation() -> Relation:
    """Tasks a, b, c; of the sparsities the last two count."""
    return Relation(
        tasks=("a", "b", "c"),
        layers=("trunk.0",),
        config=RelateConfig(seeds=2, sparsities=(0.3, 0.5, 0.7)),
        values={(metric, weighting): VALUES for metric in METRICS for weighting in WEIGHTINGS},
        layer_values=dict.fromkeys(METRICS, VALUES[..., None]),
    )
