"""Segmentation scores against loops over classes and images, and against torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train.metrics import TaskMetrics

from .conftest import Score

RNG = np.random.default_rng(0)
TASK = TaskSpec(name="s", kind="segmentation", channels=6)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Class 4 is neither there nor predicted, class 3 is there and never right, image 1 has no valid pixel."""
    logits, target = RNG.normal(size=(5, 6, 6, 7)).astype(np.float32), RNG.integers(0, 4, (5, 6, 7))
    logits[:, 4] = -9
    logits[:, 3][target == 3] = -9
    target[0, :2], target[1] = 255, 255
    return logits, target


def test_each_average_of_the_iou(score: Score) -> None:
    logits, target = scene()
    guess, known = logits.argmax(1), target != 255
    ious, right = [], []
    for c in (0, 1, 2, 3, 5):
        both = ((guess == c) & (target == c) & known).sum()
        ious.append(both / (((guess == c) | (target == c)) & known).sum())
        right.append(both > 0)
    images = []
    for one, truth, valid in zip(guess, target, known, strict=True):
        tp = fp = fn = 0
        for c in range(6):
            tp += ((one == c) & (truth == c) & valid).sum()
            fp += ((one == c) & (truth != c) & valid).sum()
            fn += ((one != c) & (truth == c) & valid).sum()
        if valid.any():
            images.append(tp / (tp + fp + fn))
    result = score(TASK, logits, target, extra="all")
    assert result["miou"] == pytest.approx(np.mean(ious), abs=1e-12)
    assert result["miou_tp"] == pytest.approx(np.mean([iou for iou, hit in zip(ious, right, strict=True) if hit]))
    assert result["miou_tp"] > result["miou"]
    assert result["iou_imagewise"] == pytest.approx(np.mean(images), abs=1e-12)
    assert len(images) == 4
    assert result["pixel_accuracy"] == pytest.approx((guess == target)[known].mean(), abs=1e-6)
    log = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    picked = [-log[b, target[b, y, x], y, x] for b, y, x in zip(*np.nonzero(known), strict=True)]
    assert result["cross_entropy"] == pytest.approx(np.mean(picked), rel=1e-6)


@pytest.mark.parametrize("ignore", [255, -1, 0, 2])
def test_agrees_with_torchmetrics_whatever_is_ignored(ignore: int, score: Score) -> None:
    logits, target = scene()
    target[target == 255] = ignore
    result = score(TASK.model_copy(update={"ignore": float(ignore)}), logits, target)
    guess, truth = torch.tensor(logits), torch.tensor(target)
    miou = multiclass_jaccard_index(guess, truth, 6, ignore_index=ignore)
    accuracy = multiclass_accuracy(guess, truth, 6, ignore_index=ignore, average="micro")
    assert result["miou"] == pytest.approx(float(miou), abs=1e-6)
    assert result["pixel_accuracy"] == pytest.approx(float(accuracy), abs=1e-6)


def test_a_set_without_a_valid_pixel_has_no_score(score: Score) -> None:
    logits, target = scene()
    result = score(TASK, logits, np.full_like(target, 255), extra="all")
    assert set(result) == {"miou", "pixel_accuracy", "miou_tp", "iou_imagewise", "cross_entropy"}
    assert all(math.isnan(value) for value in result.values())


@pytest.mark.parametrize("label", [-1, 6, 40])
def test_a_label_that_is_no_class_is_named(label: int) -> None:
    target = torch.zeros(1, 2, 2, dtype=torch.int64)
    target[0, 0, 0] = label
    with pytest.raises(InputError, match=rf"\[{label}\].*6 classes"):
        TaskMetrics(TASK).update(torch.zeros(1, 6, 2, 2), target)
