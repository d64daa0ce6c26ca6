"""Best F-measures against loops over the thresholds, label scores against counts, both against torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_precision_recall_curve

from slimtask.tasks import TaskSpec
from slimtask.train.metrics import TaskMetrics

from .conftest import Score

RNG = np.random.default_rng(0)
EDGES = TaskSpec(name="e", kind="edges", channels=1)
LABELS = TaskSpec(name="m", kind="multilabel", channels=3)


def edges() -> tuple[np.ndarray, np.ndarray]:
    target = (RNG.random((5, 1, 9, 9)) < 0.2).astype(np.float32)
    logits = (2 * target + RNG.normal(size=target.shape)).astype(np.float32)
    target[0, 0, 0] = 255
    return logits, target


def best_f(logits: np.ndarray, target: np.ndarray, thresholds: np.ndarray, beta_squared: float) -> float:
    probability, truth = 1 / (1 + np.exp(-logits[target < 2].astype(np.float64))), target[target < 2]
    best = 0.0
    for threshold in thresholds:
        hit = ((probability >= threshold) & (truth == 1)).sum()
        if hit:
            precision, recall = hit / (probability >= threshold).sum(), hit / (truth == 1).sum()
            best = max(best, (1 + beta_squared) * precision * recall / (beta_squared * precision + recall))
    return best


def test_edge_f_is_the_best_over_the_thresholds(score: Score) -> None:
    logits, target = edges()
    result = score(EDGES, logits, target)
    assert result["f1"] == pytest.approx(best_f(logits, target, np.linspace(0, 1, 33), 1.0), abs=1e-6)
    known = torch.tensor(target) < 2
    curves = binary_precision_recall_curve(
        torch.tensor(logits)[known].sigmoid(), torch.tensor(target)[known].long(), thresholds=33
    )
    precision, recall, thresholds = (curve.tolist() for curve in curves)
    at = thresholds.index(result["threshold"])
    assert result["precision"] == pytest.approx(precision[at], abs=1e-6)
    assert result["recall"] == pytest.approx(recall[at], abs=1e-6)


def test_max_f_weighs_precision_more_and_steps_by_a_twentieth(score: Score) -> None:
    logits, target = edges()
    task = EDGES.model_copy(update={"kind": "saliency", "metric": "max_f"})
    result = score(task, logits, target)
    expected = best_f(logits, target, np.arange(0.05, 0.951, 0.05), 0.3)
    assert result["max_f"] == pytest.approx(expected, abs=1e-6)
    assert abs(result["max_f"] - result["f1"]) > 1e-3


def test_a_probability_at_the_threshold_is_predicted(score: Score) -> None:
    logits, target = np.zeros((5, 1, 1, 2), np.float32), np.zeros((5, 1, 1, 2), np.float32)
    logits[..., 1] = -5
    target[..., 0] = 1
    result = score(EDGES, logits, target)  # 0.5 = sigmoid(0) is one of the 33 thresholds
    assert result["f1"] == 1
    assert score(EDGES, logits - 1e-3 * target, target)["threshold"] < 0.5


def test_edge_f_of_a_network_that_predicts_nothing_is_a_number(score: Score) -> None:
    target = np.zeros((5, 1, 4, 4), np.float32)
    target[:, :, 0] = 1
    assert math.isfinite(score(EDGES, np.full(target.shape, -5, np.float32), target)["f1"])
    assert score(EDGES, np.full(target.shape, -5, np.float32), 0 * target)["f1"] == 0
    assert math.isnan(score(EDGES, np.full(target.shape, -5, np.float32), 0 * target + 255)["f1"])


def test_map_counts_the_labels_that_vary(score: Score) -> None:
    logits = RNG.normal(size=(20, 3)).astype(np.float32)
    labels = (RNG.random((20, 3)) < 0.5).astype(np.float32)
    labels[:, 2] = 1  # always there: says nothing
    values = []
    for c in range(2):
        order = np.argsort(-logits[:, c])
        hits = labels[order, c].cumsum()
        values.append((hits / np.arange(1, 21) * labels[order, c]).sum() / labels[:, c].sum())
    assert score(LABELS, logits, labels)["map"] == pytest.approx(np.mean(values), abs=1e-6)


@pytest.mark.parametrize(("threshold", "suffix"), [(0.5, ""), (0.4, "_0.4")])
def test_accuracy_and_weighted_f1_count_known_labels(threshold: float, suffix: str, score: Score) -> None:
    logits = RNG.normal(size=(40, 3)).astype(np.float32)
    labels = (RNG.random((40, 3)) < (0.5, 0.2, 0.7)).astype(np.float32)
    labels[:5, 1] = -1
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    right = known = 0
    f1, weights = [], []
    for c in range(3):
        tp = fp = fn = 0
        for p, y in zip(probability[:, c] > threshold, labels[:, c], strict=True):
            if y >= 0:
                known, right = known + 1, right + int(p == y)
                tp, fp, fn = tp + int(p and y == 1), fp + int(p and y == 0), fn + int(not p and y == 1)
        f1.append(2 * tp / (2 * tp + fp + fn))
        weights.append(tp + fn)
    result = score(LABELS, logits, labels, extra="all")
    assert result["accuracy" + suffix] == pytest.approx(right / known, abs=1e-6)
    assert result["weighted_f1" + suffix] == pytest.approx(np.average(f1, weights=weights), abs=1e-6)


def test_labels_that_are_all_unknown_have_no_score(score: Score) -> None:
    result = score(LABELS, np.zeros((5, 3), np.float32), np.full((5, 3), -1, np.float32), extra="all")
    assert len(result) == 5
    assert all(math.isnan(value) for value in result.values())


def test_a_single_label_is_scored_like_any_other() -> None:
    """Ten images, one of them unknown, by hand: 3 true positives, 1 false, 2 missed, 3 true negatives."""
    labels = torch.tensor([1, 1, 1, 1, 1, 0, 0, 0, 0, -1.0])[:, None]
    logits = torch.tensor([2, 3, 1, -1, -2, 4, -3, -4, -5, 6.0])[:, None]
    metrics = TaskMetrics(TaskSpec(name="male", kind="multilabel", channels=1), extra=("accuracy", "weighted_f1"))
    metrics.update(logits, labels)
    result = metrics.compute()
    assert result["accuracy"] == pytest.approx(6 / 9)
    assert result["weighted_f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    ranked = (1 / 2 + 2 / 3 + 3 / 4 + 4 / 5 + 5 / 6) / 5  # precision at each true label, the false one ranked first
    assert result["map"] == pytest.approx(ranked)
