"""The policy's picture holds what it shows as text."""

from __future__ import annotations

from pathlib import Path

from slimtask.compress.structures.policy import Policy
from slimtask.train.methods.adashare.heatmap import save_heatmap


def test_the_picture_names_tasks_blocks_and_probabilities(tmp_path: Path) -> None:
    policy = Policy(blocks=("layer1.0", "layer1.1"), selects={"depth": (True, False), "edges": (True, True)})
    save_heatmap(tmp_path / "a.svg", policy, {"depth": [0.81, 0.07], "edges": [1.0, 0.33]})
    text = (tmp_path / "a.svg").read_text()
    for shown in ("layer1.0", "depth", "edges", ">.81<", ">.07<", ">.33<", "chosen policy", "probability of executing"):
        assert shown in text
    save_heatmap(tmp_path / "b.svg", policy)
    assert "probability" not in (tmp_path / "b.svg").read_text()
    save_heatmap(tmp_path / "c.png", policy)
    assert (tmp_path / "c.png").read_bytes()[1:4] == b"PNG"
