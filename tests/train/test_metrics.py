"""Metrics against float64 definitions written out in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from slimtask.tasks import TaskSpec
from slimtask.train.metrics import TaskMetrics, delta_m

RNG = np.random.default_rng(0)


def score(task: TaskSpec, prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Return the metrics of a set given in two batches of unequal size."""
    meter = TaskMetrics(task)
    for part in (slice(0, 3), slice(3, None)):
        meter.update(torch.tensor(prediction[part]), torch.tensor(target[part]))
    return meter.compute()


def test_miou_is_the_mean_over_classes_that_occur() -> None:
    task = TaskSpec(name="s", kind="segmentation", channels=5)
    logits, target = RNG.normal(size=(5, 5, 6, 7)).astype(np.float32), RNG.integers(0, 4, (5, 6, 7))
    logits[:, 4] = -9  # class 4 is neither there nor predicted
    target[0, :2] = 255
    guess, known = logits.argmax(1), target != 255
    ious = [
        ((guess == c) & (target == c) & known).sum() / (((guess == c) | (target == c)) & known).sum() for c in range(4)
    ]
    result = score(task, logits, target)
    assert result["miou"] == pytest.approx(np.mean(ious), abs=1e-6)
    assert result["pixel_accuracy"] == pytest.approx((guess == target)[known].mean(), abs=1e-6)


def test_depth_errors() -> None:
    task = TaskSpec(name="d", kind="depth", channels=1)
    target = RNG.uniform(0.5, 8, (5, 1, 6, 7)).astype(np.float32)
    prediction = (target * RNG.uniform(0.6, 1.6, target.shape)).astype(np.float32)
    target[1, 0, :3] = 0
    p, t = prediction[target > 0].astype(np.float64), target[target > 0].astype(np.float64)
    result = score(task, prediction, target)
    assert result["abs_rel"] == pytest.approx(np.mean(np.abs(p - t) / t), rel=1e-5)
    assert result["mae"] == pytest.approx(np.mean(np.abs(p - t)), rel=1e-5)
    assert result["rmse"] == pytest.approx(np.sqrt(np.mean((p - t) ** 2)), rel=1e-5)
    assert result["delta1"] == pytest.approx(np.mean(np.maximum(p / t, t / p) < 1.25), abs=1e-6)


def test_normal_angles_also_where_the_arc_cosine_fails() -> None:
    task = TaskSpec(name="n", kind="normals", channels=3)
    angles = np.deg2rad([0.01, 5, 20, 25, 90, 179.99])
    target = np.zeros((6, 3, 1, 1), np.float32)
    target[:, 0] = 1
    prediction = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1).astype(np.float32)[..., None, None]
    result = score(task, prediction, target)
    degrees = np.rad2deg(angles)
    assert result["mean_angle"] == pytest.approx(degrees.mean(), abs=1e-3)
    assert result["rmse_angle"] == pytest.approx(np.sqrt((degrees**2).mean()), abs=1e-3)
    assert result["within_11.25"] == pytest.approx(2 / 6)
    assert result["within_22.5"] == pytest.approx(3 / 6)
    assert result["within_30"] == pytest.approx(4 / 6)


def test_edge_f_is_the_best_over_the_thresholds() -> None:
    task = TaskSpec(name="e", kind="edges", channels=1)
    target = (RNG.random((5, 1, 9, 9)) < 0.2).astype(np.float32)
    logits = (2 * target + RNG.normal(size=target.shape)).astype(np.float32)
    target[0, 0, 0] = 255
    probability, truth = 1 / (1 + np.exp(-logits[target < 2].astype(np.float64))), target[target < 2]
    best = 0.0
    for threshold in np.linspace(0, 1, 33):
        hit = ((probability >= threshold) & (truth == 1)).sum()
        best = max(best, 2 * hit / ((probability >= threshold).sum() + (truth == 1).sum()))
    assert score(task, logits, target)["f1"] == pytest.approx(best, abs=1e-5)


def test_edge_f_of_a_network_that_predicts_nothing_is_a_number() -> None:
    task = TaskSpec(name="e", kind="edges", channels=1)
    target = np.zeros((5, 1, 4, 4), np.float32)
    target[:, :, 0] = 1
    assert math.isfinite(score(task, np.full(target.shape, -5, np.float32), target)["f1"])


def test_presence_map_counts_the_labels_that_vary() -> None:
    task = TaskSpec(name="m", kind="multilabel", channels=3)
    logits = RNG.normal(size=(20, 3)).astype(np.float32)
    labels = (RNG.random((20, 3)) < 0.5).astype(np.float32)
    labels[:, 2] = 1  # always there: says nothing
    values = []
    for c in range(2):
        order = np.argsort(-logits[:, c])
        hits = labels[order, c].cumsum()
        values.append((hits / np.arange(1, 21) * labels[order, c]).sum() / labels[:, c].sum())
    assert score(task, logits, labels)["map"] == pytest.approx(np.mean(values), abs=1e-6)


def test_accuracy_leaves_out_unknown_labels() -> None:
    task = TaskSpec(name="c", kind="classification", channels=3)
    logits, labels = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]], np.array([0, 1, 1, -1])
    assert score(task, logits, labels)["accuracy"] == pytest.approx(2 / 3)


def test_delta_m_is_signed_so_that_better_is_positive() -> None:
    tasks = [
        TaskSpec(name="s", kind="segmentation", channels=2),
        TaskSpec(name="d", kind="depth", channels=1),
        TaskSpec(name="m", kind="multilabel", channels=2),
    ]
    base = {"s": {"miou": 0.5}, "d": {"abs_rel": 0.2}, "m": {"map": math.nan}}
    now = {"s": {"miou": 0.55}, "d": {"abs_rel": 0.22}, "m": {"map": 0.3}}
    assert delta_m(now, base, tasks) == pytest.approx((10 - 10) / 2)
    assert delta_m({**now, "d": {"abs_rel": 0.1}}, base, tasks) == pytest.approx((10 + 50) / 2)
    assert math.isnan(delta_m({"m": {"map": 1.0}}, {"m": {"map": math.nan}}, tasks[2:]))
