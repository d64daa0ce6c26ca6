"""Losses against their float64 definitions, with and without ignored entries."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from slimtask.tasks import TaskSpec
from slimtask.train.losses import multi_task_loss, task_loss


def spec(kind: str, channels: int, **more: object) -> TaskSpec:
    return TaskSpec(name=kind, kind=kind, channels=channels, **more)


def test_segmentation_is_the_mean_negative_log_probability_of_valid_pixels() -> None:
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    target[0, 0] = 255
    log = logits.double() - logits.double().exp().sum(1, keepdim=True).log()
    picked = [
        -log[b, target[b, y, x], y, x] for b in range(2) for y in range(4) for x in range(5) if target[b, y, x] < 3
    ]
    expected = float(sum(picked) / len(picked))
    assert float(task_loss(logits, target, spec("segmentation", 3))) == pytest.approx(expected, rel=1e-5)


def test_depth_is_l1_in_metres_where_depth_is_known() -> None:
    prediction, target = torch.full((1, 1, 2, 2), 3.0), torch.tensor([[[[1.0, 0.0], [5.0, 3.0]]]])
    assert float(task_loss(prediction, target, spec("depth", 1))) == pytest.approx((2 + 2 + 0) / 3)


def test_normals_is_one_minus_cosine_where_the_normal_is_known() -> None:
    prediction = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 1, 3)
    target = torch.zeros(1, 3, 1, 3)
    target[0, :, 0, 0] = torch.tensor([0.0, 1, 0])
    target[0, :, 0, 1] = torch.tensor([math.cos(0.5), math.sin(0.5), 0])
    expected = (1 + 1 - math.cos(0.5)) / 2
    assert float(task_loss(prediction, target, spec("normals", 3))) == pytest.approx(expected, rel=1e-6)


def test_edges_weigh_both_classes_the_same() -> None:
    logits = torch.tensor([[[[2.0, -1.0, 0.5, 7.0]]]])
    target = torch.tensor([[[[1.0, 0.0, 0.0, 255.0]]]])
    positive = math.log1p(math.exp(-2))
    negative = (math.log1p(math.exp(-1)) + math.log1p(math.exp(0.5))) / 2
    assert float(task_loss(logits, target, spec("edges", 1))) == pytest.approx((positive + negative) / 2, rel=1e-6)


def test_image_level_tasks() -> None:
    logits, labels = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([1, -1])
    assert float(task_loss(logits, labels, spec("classification", 2))) == pytest.approx(math.log1p(math.exp(-1)))
    many = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(2)) + math.log(2)) / 3
    assert float(task_loss(logits, many, spec("multilabel", 2))) == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "channels"), [("segmentation", 3), ("depth", 1), ("normals", 3), ("edges", 1)])
def test_a_batch_without_any_valid_pixel_costs_nothing_and_breaks_nothing(kind: str, channels: int) -> None:
    task = spec(kind, channels)
    prediction = torch.randn(1, channels, 4, 4, requires_grad=True)
    shape = (1, 4, 4) if kind == "segmentation" else (1, channels, 4, 4)
    target: Tensor = torch.full(shape, task.ignore)
    loss = task_loss(prediction, target.long() if kind == "segmentation" else target, task)
    loss.backward()
    assert float(loss.detach()) == 0
    assert prediction.grad is not None
    assert bool((prediction.grad == 0).all())


def test_the_total_is_the_weighted_sum() -> None:
    tasks = (spec("depth", 1, weight=2.0), spec("classification", 2, weight=0.5))
    predictions = {"depth": torch.ones(1, 1, 2, 2), "classification": torch.zeros(1, 2)}
    targets = {"depth": torch.full((1, 1, 2, 2), 4.0), "classification": torch.tensor([0])}
    total, losses = multi_task_loss(predictions, targets, tasks)
    assert float(total) == pytest.approx(2 * 3 + 0.5 * math.log(2))
    assert float(losses["depth"]) == 3
