"""Differences of activations: sums, thresholds and shares by hand."""

from __future__ import annotations

import pytest
import torch

from slimtask.train.methods.delta.activations import Differences, PenalisedSites, linear_thresholds
from slimtask.train.models.vit import ViTTrunk


def test_the_penalty_sums_elements_batch_and_sites() -> None:
    torch.manual_seed(0)
    penalty, total = PenalisedSites(), 0.0
    for site in ("norm1", "qkv", "proj", "fc1", "act", "fc2", "norm2"):
        base, own = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
        penalty(f"encoder_layer_0.{site}", base, own)
        if site != "norm2":
            total += sum(abs(float(a) - float(b)) for a, b in zip(base.flatten(), own.flatten(), strict=True))
    assert float(penalty.total()) == pytest.approx(total, rel=1e-5)


def test_a_threshold_leaves_the_share_it_was_chosen_for() -> None:
    torch.manual_seed(0)
    seen = Differences()
    seen("b.fc1", torch.zeros(2, 10, 50), torch.randn(2, 10, 50))
    seen("b.norm1", torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    thresholds = seen.thresholds(0.1)
    assert list(thresholds) == ["b.fc1"]
    assert seen.shares(thresholds)["b.fc1"]["elements"] == pytest.approx(0.1)
    assert seen.shares({})["b.fc1"] == {"elements": 1.0, "rows": 1.0}
    change = torch.zeros(1, 4, 3)
    change[0, 1, 2], change[0, 3, 0] = 0.5, 0.1
    seen("b.fc2", torch.zeros(1, 4, 3), change)
    assert seen.shares({"b.fc2": 0.2})["b.fc2"] == {"elements": pytest.approx(1 / 12), "rows": 0.25}


def test_every_linear_layer_gets_a_threshold() -> None:
    trunk, sites = ViTTrunk("vit_tiny", width=0.25), []
    trunk(torch.zeros(1, 3, 16, 16), at=lambda site, value: sites.append(site) or value)
    wanted = [site for site in sites if site.rpartition(".")[2] in ("qkv", "proj", "fc1", "fc2")]
    assert linear_thresholds(trunk, 0.15) == dict.fromkeys(wanted, 0.15)
