"""The overlap of masks against counting every entry in Python, for two and for five tasks."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch

from slimtask.compress.structures.masks import Masks
from slimtask.errors import InputError
from slimtask.train.methods.masks.overlap import overlap, save_plot

TASKS = ("a", "b", "c", "d", "e")
LAYERS = ("trunk.stem.0.weight", "trunk.layer1.0.shortcut.0.weight", "trunk.layer2.0.residual.0.weight")


def some_masks(tasks: int) -> Masks:
    generator = torch.Generator().manual_seed(tasks)
    per_task = {
        task: {
            name: torch.rand(40, 20, generator=generator) < level
            for name, level in zip((*LAYERS, f"heads.{task}.weight"), (0.7, 0.5, 0.15, 0.5), strict=True)
        }
        for task in TASKS[:tasks]
    }
    return Masks(per_task=per_task)


@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_every_figure_equals_a_count_over_the_entries(tasks: int) -> None:
    masks = some_masks(tasks)
    found = overlap(masks)
    assert tuple(found.layers) == LAYERS
    kept = {
        task: {name: set(mask.flatten().nonzero().flatten().tolist()) for name, mask in own.items()}
        for task, own in masks.per_task.items()
    }
    for name in LAYERS:
        sets = [kept[task][name] for task in TASKS[:tasks]]
        pairs = [len(p & q) / len(p | q) for p, q in combinations(sets, 2)]
        layer = found.layers[name]
        assert list(layer.pairs.values()) == pytest.approx(pairs)
        assert layer.mean == pytest.approx(sum(pairs) / len(pairs))
        assert layer.all == pytest.approx(len(set.intersection(*sets)) / len(set.union(*sets)))
        by = [sum(entry in one for one in sets) for entry in range(800)]
        assert layer.exactly_two == pytest.approx(by.count(2) / (by.count(1) + by.count(2)))
    for (p, q), value in found.total.pairs.items():
        both = sum(len(kept[p][name] & kept[q][name]) for name in LAYERS)
        either = sum(len(kept[p][name] | kept[q][name]) for name in LAYERS)
        assert value == pytest.approx(both / either)


def test_for_two_tasks_all_measures_are_that_of_the_masks() -> None:
    masks = some_masks(2)
    found = overlap(masks)
    for name, value in masks.iou().items():
        layer = found.layers[name]
        assert layer.mean == layer.all == layer.exactly_two == pytest.approx(value)
    assert found.total.mean == pytest.approx(masks.total_iou())


def test_the_watershed_is_where_the_overlap_stays_below_one_half() -> None:
    def layer(same: int) -> tuple[torch.Tensor, torch.Tensor]:
        one, two = torch.zeros(10, dtype=torch.bool), torch.zeros(10, dtype=torch.bool)
        one[:5] = two[5 - same : 10 - same] = True
        return one, two

    levels = {"0": 5, "1.shortcut": 0, "2": 1, "3": 4, "4": 2, "5.shortcut": 5, "6": 1}
    pairs = {name: layer(same) for name, same in levels.items()}
    masks = Masks(per_task={task: {name: pair[k] for name, pair in pairs.items()} for k, task in enumerate("ab")})
    assert overlap(masks).watershed == "4"


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="at least two tasks"):
        overlap(Masks(per_task={"a": {"w": torch.ones(2, dtype=torch.bool)}}))
    with pytest.raises(InputError, match="no masked parameter in common"):
        overlap(Masks(per_task={task: {task: torch.ones(2, dtype=torch.bool)} for task in "ab"}))


def test_the_plot_is_written_as_its_suffix_says(tmp_path: Path) -> None:
    found = overlap(some_masks(3))
    save_plot(found, tmp_path / "iou.svg")
    save_plot(found, tmp_path / "again.svg")
    text = (tmp_path / "iou.svg").read_text()
    assert text == (tmp_path / "again.svg").read_text()
    assert "watershed" in text
    assert "a - c" in text
    with pytest.raises(InputError, match=r"as \.png or \.svg"):
        save_plot(found, tmp_path / "iou.pdf")
