"""Heads against their published sizes."""

from __future__ import annotations

from slimtask.train.models.heads import AttributeHead, DeepLabHead, SceneHead


def test_heads_have_the_published_size() -> None:
    assert round(sum(p.numel() for p in SceneHead(512, 40).parameters()) / 1e6, 2) == 23.24
    assert round(sum(p.numel() for p in DeepLabHead(2048, 1).parameters()) / 1e6, 2) == 16.13
    assert round(sum(p.numel() for p in AttributeHead(2048, 1).parameters()) / 1e6, 2) == 1.18
