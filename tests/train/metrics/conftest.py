"""A set scored in two batches of unequal size, the last one partial."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from slimtask.tasks import TaskSpec
from slimtask.train.metrics import Extra, TaskMetrics

Score = Callable[..., dict[str, float]]


@pytest.fixture
def score() -> Score:
    def scored(task: TaskSpec, prediction: np.ndarray, target: np.ndarray, extra: Extra = ()) -> dict[str, float]:
        meter = TaskMetrics(task, extra=extra)
        for part in (slice(0, 3), slice(3, None)):
            meter.update(torch.tensor(prediction[part]), torch.tensor(target[part]))
        return meter.compute()

    return scored
