from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from slimtask.tasks import Preprocessing, TaskSpec
from slimtask.train.data.dataset import TransformedDataset
from slimtask.train.data.protocol import collate
from slimtask.train.losses import multi_task_loss


@pytest.fixture(autouse=True)
def _one_thread():
    """These tests run thousands of small operations, which a second thread only makes wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def check_batch() -> Callable[[TransformedDataset], None]:
    """Return a function that asserts that a data set makes batches a network can learn from, by its own TaskSpecs."""

    def check(dataset: TransformedDataset) -> None:
        height, width = dataset[0]["image"].shape[-2:]
        samples = dataset.__getitems__([0, len(dataset) - 1])
        images, targets = collate(samples, Preprocessing(height=height, width=width))
        assert images.shape == (2, 3, height, width)
        assert images.dtype == torch.float32
        predictions = {}
        for task in dataset.tasks:
            _check_target(targets[task.name], task, (height, width))
            shape = (2, task.channels, height, width) if task.dense else (2, task.channels)
            predictions[task.name] = torch.full(shape, 0.5, requires_grad=True)
        total, losses = multi_task_loss(predictions, targets, dataset.tasks)
        total.backward()
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        assert all(0 <= value < float("inf") for value in values.values()), values
        assert any(values.values())

    return check


def _check_target(target: torch.Tensor, task: TaskSpec, size: tuple[int, int]) -> None:
    counted = target[target != task.ignore]
    if task.kind == "segmentation":
        assert (target.dtype, target.shape) == (torch.int64, (2, *size))
        assert not counted.numel() or 0 <= int(counted.min()) <= int(counted.max()) < task.channels
        return
    assert target.dtype == torch.float32
    assert bool(target.isfinite().all())
    assert target.shape == ((2, task.channels, *size) if task.dense else (2, task.channels))
    if task.kind == "normals":
        lengths = target.norm(dim=1)
        assert bool(((lengths < 1e-6) | ((lengths - 1).abs() < 1e-5)).all())
    elif task.kind == "depth":
        assert float(target.min()) >= 0
    elif task.kind in ("edges", "saliency", "multilabel"):
        assert set(counted.unique().tolist()) <= {0.0, 1.0}
    elif task.kind == "keypoints":
        assert -1 <= float(counted.min()) <= float(counted.max()) <= 1
