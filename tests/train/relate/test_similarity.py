"""Measures and weightings against closed forms, brute force over entries, and the properties they must have."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from slimtask.errors import InputError
from slimtask.train.relate.config import METRICS, WEIGHTINGS
from slimtask.train.relate.similarity import (
    cosine,
    epi,
    iou,
    layer_similarity,
    layer_weights,
    shared_layers,
    weighted_mean,
)
from slimtask.train.saliency import top_mask


def a_layer(seed: int, keep: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(6, 4, 3, generator=generator)
    return scores, top_mask(scores, keep)


@pytest.mark.parametrize("metric", METRICS)
def test_a_layer_by_brute_force_symmetry_range_and_identity(metric: str) -> None:
    for seed in range(20):
        (score_p, mask_p), (score_q, mask_q) = a_layer(seed), a_layer(seed + 100, keep=int(seed * 3) + 1)
        found = layer_similarity(metric, (score_p, score_q), (mask_p, mask_q))
        entries = [tuple(map(float, row)) for row in zip(*(t.flatten() for t in (score_p, score_q, mask_p, mask_q)))]  # noqa: B905
        kept_p, kept_q = (sum(row[i] for row in entries) for i in (2, 3))
        masked = metric == "mcss"
        p, q = ([row[i] * (row[i + 2] if masked else 1) for row in entries] for i in (0, 1))
        truth = {
            "epi": 1 - abs(kept_p - kept_q) / (kept_p + kept_q),
            "iou": sum(row[2] * row[3] for row in entries) / sum(max(row[2], row[3]) for row in entries),
        }.get(metric, sum(a * b for a, b in zip(p, q, strict=True)) / math.hypot(*p) / math.hypot(*q))
        assert found == pytest.approx(truth, rel=1e-6)
        assert layer_similarity(metric, (score_q, score_p), (mask_q, mask_p)) == pytest.approx(found, rel=1e-12)
        assert 0 <= found <= 1
        assert layer_similarity(metric, (score_p, score_p), (mask_p, mask_p)) == pytest.approx(1, abs=1e-12)


def test_a_measures_own_question() -> None:
    """EPI counts, IoU places, CSS weighs, MCSS weighs what is kept."""
    p, q = torch.tensor([4.0, 3.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 3.0, 4.0])
    masks = p > 0, q > 0
    values = [layer_similarity(metric, (p, q), masks) for metric in METRICS]
    assert values == [1.0, 0.0, 0.0, 0.0]
    near = torch.tensor([4.0, 3.0, 1.0, 0.0])
    assert layer_similarity("mcss", (p, near), (p > 0, near > 1)) == pytest.approx(1)
    assert layer_similarity("css", (p, near), (p > 0, near > 1)) == pytest.approx(5 / math.sqrt(26))


def test_a_layer_that_neither_task_keeps_is_an_agreement() -> None:
    nothing, something = torch.zeros(4, dtype=torch.bool), torch.tensor([True, False, False, False])
    assert (epi(0, 0), iou(nothing, nothing), cosine(torch.zeros(4), torch.zeros(4))) == (1, 1, 1)
    assert (epi(0, 1), iou(nothing, something), cosine(torch.zeros(4), torch.ones(4))) == (0, 0, 0)


def test_cosines_do_not_depend_on_scale_however_small() -> None:
    scores, other = a_layer(1)[0], a_layer(2)[0]
    assert cosine(scores * 1e-25, other * 1e20) == pytest.approx(cosine(scores, other), rel=1e-6)


def test_layer_weights_by_hand() -> None:
    """Sparsities are those of the layer: kept over size, of the two tasks."""
    kept_p, kept_q = np.array([10, 5, 0, 8, 2, 1, 4]), np.array([10, 1, 0, 2, 2, 3, 4])
    sizes = np.array([10, 10, 5, 8, 20, 4, 16])
    rows = {weighting: layer_weights(weighting, kept_p, kept_q, sizes).tolist() for weighting in WEIGHTINGS}
    assert rows == {
        "equal": [1] * 7,
        "linear": list(range(7)),
        "linear_plus_one": list(range(1, 8)),
        "step": [0] * 5 + [1] * 2,
        "mean_sparsity": pytest.approx([0, 0.7, 1, 0.375, 0.9, 0.5, 0.75]),
        "min_sparsity": pytest.approx([0, 0.5, 1, 0, 0.9, 0.25, 0.75]),
        "epi": pytest.approx([1, 1 / 3, 1, 0.4, 1, 0.5, 1]),
    }


def test_the_mean_is_normalised_once_and_undefined_without_weight() -> None:
    values = np.array([0.2, 0.4, 0.9])
    assert weighted_mean(values, np.array([1.0, 1.0, 1.0])) == pytest.approx(0.5)
    assert weighted_mean(values, np.array([0.0, 1.0, 3.0])) == pytest.approx((0.4 + 2.7) / 4)
    assert math.isnan(weighted_mean(values, np.zeros(3)))


def test_only_what_every_task_uses_is_compared() -> None:
    ones = torch.ones(2)
    saliencies = {"a": {"trunk.0": ones, "heads.a": ones}, "b": {"trunk.0": ones, "heads.b": ones}}
    assert shared_layers(saliencies) == ("trunk.0",)
    with pytest.raises(InputError, match="share no convolution"):
        shared_layers({"a": {"x": ones}, "b": {"y": ones}})
    with pytest.raises(InputError, match="no trunk weight matters to task 'b'"):
        shared_layers(saliencies | {"b": {"trunk.0": torch.zeros(2), "heads.b": ones}})
