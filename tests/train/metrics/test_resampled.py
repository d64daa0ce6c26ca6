"""Metrics of resamples against the same metrics of a set in which the images really stand so often."""

from __future__ import annotations

import pytest
import torch

from slimtask.tasks import TaskSpec
from slimtask.train.metrics import TaskMetrics
from slimtask.train.metrics.resampled import ResampledMetrics, draw_images

CASES = {"segmentation": 4, "depth": 1, "normals": 3, "edges": 1, "keypoints": 2, "classification": 3, "multilabel": 3}


@pytest.mark.parametrize("kind", CASES)
def test_a_resample_scores_as_the_set_of_its_images(kind: str) -> None:
    """The mean over images of an mIoU, a best F or a median would not."""
    task, draw = TaskSpec(name="t", kind=kind, channels=CASES[kind]), torch.Generator().manual_seed(0)
    shape = (7, task.channels) + ((5, 6) if task.dense else ())
    prediction, target = torch.rand(shape, generator=draw) + 0.1, torch.rand(shape, generator=draw)
    if kind in ("segmentation", "classification"):
        target = torch.randint(0, 3, (7, 5, 6) if task.dense else (7,), generator=draw)
    elif kind not in ("depth", "normals", "keypoints"):
        target = target.round()
    target[0] = task.ignore
    counts = draw_images(7, 3, seed=1)
    meter = ResampledMetrics(task, counts, "all")
    for part in (slice(0, 3), slice(3, 7)):
        meter.update(prediction[part], target[part])
    found = meter.compute()
    for row, count in enumerate(counts.long()):
        images = torch.arange(7).repeat_interleave(count)
        whole = TaskMetrics(task, extra="all")
        whole.update(prediction[images], target[images])
        one = {name: float(values[row]) for name, values in found.items()}
        assert one == pytest.approx(whole.compute(), rel=1e-6, nan_ok=True)


def test_every_resample_holds_as_many_images_drawn_by_the_seed() -> None:
    counts = draw_images(50, 400, seed=3)
    assert bool((counts.sum(dim=1) == 50).all())
    assert torch.equal(counts, draw_images(50, 400, seed=3))
    assert not torch.equal(counts, draw_images(50, 400, seed=4))
    # of a multinomial: mean 1, variance 1 - 1 / images; 20,000 draws
    assert float(counts.double().var()) == pytest.approx(1 - 1 / 50, abs=0.05)
