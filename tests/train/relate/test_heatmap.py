"""The picture holds what it shows as text: names, every pair's figure twice, what was measured."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from slimtask.train.relate.heatmap import save_heatmap, title
from slimtask.train.relate.relation import Relation


def test_the_picture_names_tasks_and_figures_and_repeats_exactly(relation: Relation, tmp_path: Path) -> None:
    save_heatmap(relation, tmp_path / "a.svg")
    save_heatmap(relation, tmp_path / "b.svg")
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    shown = re.findall(r">(\d\.\d{3})<", text)
    assert sorted(shown) == ["0.200"] * 2 + ["0.300"] * 2 + ["0.650"] * 2
    assert title(relation) in text
    save_heatmap(relation, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_title_says_what_decides(relation: Relation) -> None:
    assert title(relation) == "MCSS, equal layer weights, sparsity 50%, 70%, 2 seeds"
    config = relation.config.model_copy(update={"seeds": 1, "similarity": "iou", "average_over": (0.3,)})
    assert title(dataclasses.replace(relation, config=config)) == "IoU, equal layer weights, sparsity 30%, 1 seed"
