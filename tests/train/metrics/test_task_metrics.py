"""A task's metrics do not depend on how the set is cut into batches."""

from __future__ import annotations

import pytest
import torch

from slimtask.tasks import TaskSpec
from slimtask.train.metrics import TaskMetrics

CASES = {"segmentation": 4, "depth": 1, "normals": 3, "edges": 1, "saliency": 1, "keypoints": 2, "multilabel": 3}


@pytest.mark.parametrize("kind", CASES)
def test_batches_do_not_matter(kind: str) -> None:
    task, draw = TaskSpec(name="t", kind=kind, channels=CASES[kind]), torch.Generator().manual_seed(0)
    shape = (7, task.channels) + ((5, 6) if task.dense else ())
    prediction, target = torch.rand(shape, generator=draw) + 0.1, torch.rand(shape, generator=draw)
    if kind == "segmentation":
        target = torch.randint(0, 4, (7, 5, 6), generator=draw)
    elif kind not in ("depth", "normals", "keypoints"):
        target = target.round()
    target[0, ..., :2] = task.ignore
    results = []
    for size in (7, 3, 1):
        meter = TaskMetrics(task, extra="all")
        for start in range(0, 7, size):
            meter.update(prediction[start : start + size], target[start : start + size])
        results.append(meter.compute())
    assert results[1] == pytest.approx(results[0], rel=1e-6)
    assert results[2] == pytest.approx(results[0], rel=1e-6)


def test_a_prediction_with_a_gradient_in_half_precision_is_welcome() -> None:
    meter = TaskMetrics(TaskSpec(name="d", kind="depth", channels=1))
    meter.update(torch.full((1, 1, 2, 2), 2.0, dtype=torch.bfloat16, requires_grad=True), torch.ones(1, 1, 2, 2))
    assert meter.compute()["mae"] == 1
