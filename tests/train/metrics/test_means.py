"""Depth, keypoint, probability and class errors against float64 definitions over the whole set."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slimtask.tasks import TaskSpec

from .conftest import Score

RNG = np.random.default_rng(0)


def test_depth_errors(score: Score) -> None:
    task = TaskSpec(name="d", kind="depth", channels=1)
    target = RNG.uniform(0.5, 8, (5, 1, 6, 7)).astype(np.float32)
    prediction = (target * RNG.uniform(0.5, 2.2, target.shape)).astype(np.float32)
    target[1, 0, :3] = 0
    p, t = prediction[target > 0].astype(np.float64), target[target > 0].astype(np.float64)
    expected = {
        "abs_rel": np.mean(np.abs(p - t) / t),
        "sq_rel": np.mean((p - t) ** 2 / t),
        "mae": np.mean(np.abs(p - t)),
        "mse": np.mean((p - t) ** 2),
        "rmse": np.sqrt(np.mean((p - t) ** 2)),
        **{f"delta{k}": np.mean(np.maximum(p / t, t / p) < 1.25**k) for k in (1, 2, 3)},
    }
    result = score(task, prediction, target, extra="all")
    assert result == pytest.approx(expected, rel=1e-6)
    assert result["delta1"] < result["delta2"] < result["delta3"] < 1


def test_relative_depth_errors_leave_out_a_true_depth_of_zero(score: Score) -> None:
    task = TaskSpec(name="d", kind="depth", channels=1, ignore=255)
    target, prediction = np.zeros((5, 1, 1, 2), np.float32), np.full((5, 1, 1, 2), 3, np.float32)
    target[:, 0, 0, 1] = 2
    result = score(task, prediction, target)
    assert result["abs_rel"] == pytest.approx(0.5)
    assert result["mae"] == pytest.approx((3 + 1) / 2)
    assert result["delta2"] == 1


def test_keypoint_errors(score: Score) -> None:
    task = TaskSpec(name="k", kind="keypoints", channels=1)
    target, prediction = (RNG.uniform(-1, 1, (5, 1, 3, 4)).astype(np.float32) for _ in range(2))
    target[0, 0, 0] = 255
    known = target != 255
    expected = np.abs(prediction[known].astype(np.float64) - target[known]).mean()
    assert score(task, prediction, target) == {"mae": pytest.approx(expected, rel=1e-6)}


def test_probability_errors(score: Score) -> None:
    task = TaskSpec(name="e", kind="edges", channels=1)
    logits, target = RNG.normal(size=(5, 1, 6, 7)).astype(np.float32), RNG.random((5, 1, 6, 7)).astype(np.float32)
    target[2, 0, 0] = 255
    known = target != 255
    errors = [
        abs(1 / (1 + math.exp(-x)) - y) for x, y in zip(logits[known].tolist(), target[known].tolist(), strict=True)
    ]
    huber = [e * e / 2 if e < 0.2 else 0.2 * (e - 0.1) for e in errors]
    result = score(task, logits, target, extra=("mae", "huber"))
    assert result["mae"] == pytest.approx(np.mean(errors), rel=1e-6)
    assert result["huber"] == pytest.approx(np.mean(huber), rel=1e-6)


def test_accuracy_leaves_out_unknown_labels(score: Score) -> None:
    task = TaskSpec(name="c", kind="classification", channels=3)
    logits, labels = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]], np.array([0, 1, 1, -1])
    assert score(task, logits, labels)["accuracy"] == pytest.approx(2 / 3)


def test_an_entry_counts_the_same_in_a_small_last_batch(score: Score) -> None:
    task = TaskSpec(name="k", kind="keypoints", channels=1)
    target = np.zeros((4, 1, 1, 1), np.float32)
    prediction = np.array([0, 0, 0, 8], np.float32)[:, None, None, None]
    assert score(task, prediction, target)["mae"] == 2  # a mean of batch means would be 4


def test_nothing_that_counts_is_no_score(score: Score) -> None:
    task = TaskSpec(name="d", kind="depth", channels=1)
    zeros = np.zeros((5, 1, 2, 2), np.float32)
    assert all(math.isnan(value) for value in score(task, zeros + 1, zeros, extra="all").values())
