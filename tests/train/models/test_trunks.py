"""Trunks against their published counts and geometry."""

from __future__ import annotations

import pytest
import torch

from slimtask.compress.score.cost import count_flops
from slimtask.train.models import ResNetTrunk
from slimtask.train.models.heads import SceneHead


def millions(module: torch.nn.Module) -> float:
    return round(sum(parameter.numel() for parameter in module.parameters()) / 1e6, 2)


@pytest.mark.parametrize(("name", "size"), [("resnet18", 11.18), ("resnet34", 21.28)])
def test_scenenet_trunks_have_the_published_size(name: str, size: float) -> None:
    assert millions(ResNetTrunk(name)) == size


def test_resnetd50_has_the_counts_of_less_is_more() -> None:
    convolutions = [p for p in ResNetTrunk("resnetd50").parameters() if p.ndim == 4]
    assert len(convolutions) == 55
    assert sum(p.shape[1] for p in convolutions) == 22_787
    assert sum(p.shape[0] for p in convolutions) == 26_752
    assert sum(p.numel() for p in convolutions) == 23_578_304


def test_scenenet_maps_321_pixels_to_41() -> None:
    trunk = ResNetTrunk("resnet18", width=0.125).eval()
    with torch.no_grad():
        assert trunk(torch.zeros(1, 3, 321, 321)).shape == (1, 64, 41, 41)
    assert list(trunk.blocks) == [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]


def test_scenenet_has_the_published_multiply_adds_at_321_pixels() -> None:
    with torch.device("meta"):
        trunk, head = ResNetTrunk("resnet34"), SceneHead(512, 40)
        image, features = torch.zeros(1, 3, 321, 321), torch.zeros(1, 512, 41, 41)
    assert round(count_flops(trunk, image) / 2e9, 1) == 37.1
    assert round(count_flops(head, features) / 2e9) == 39
