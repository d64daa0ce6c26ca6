"""A whole relation against one computed by brute force, its seeds, its averages, its files."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train.models import multitask_net
from slimtask.train.recipe import Recipe, parse_recipe
from slimtask.train.relate.config import METRICS, WEIGHTINGS, RelateConfig
from slimtask.train.relate.relate import compare, relate, save
from slimtask.train.saliency import prunable_weights

TASKS = ("depth", "normals", "objects")


def recipe(**sections: dict[str, Any]) -> Recipe:
    content: dict[str, Any] = {
        "data": {"height": 32, "width": 48, "train": 12, "cache": True, "tasks": list(TASKS)},
        "model": {"width": 0.125, "head_hidden": 8},
        "train": {"batch": 3},
    }
    return parse_recipe({name: {**content.get(name, {}), **sections.get(name, {})} for name in content})


def random_saliencies(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"trunk.0": (4, 3), "trunk.1": (5, 4, 2), "trunk.2": (6, 5)}
    made = {}
    for place, task in enumerate(TASKS):
        own = shapes | {f"heads.{task}": (7 + place, 6)}
        made[task] = {name: torch.rand(shape, generator=generator) ** 3 for name, shape in own.items()}
    return made


def test_the_comparison_equals_brute_force_in_numpy() -> None:
    """Global threshold over trunk and own head, every layer's own sparsities, one normalisation."""
    saliencies, layers = random_saliencies(), ("trunk.0", "trunk.1", "trunk.2")
    config = RelateConfig(sparsities=(0.4, 0.8))
    by_layer, means = compare(saliencies, layers, config)
    for row, sparsity in enumerate(config.sparsities):
        kept: dict[str, dict[str, np.ndarray]] = {}
        for task, scores in saliencies.items():
            flat = np.sort(np.concatenate([score.numpy().ravel() for score in scores.values()]))[::-1]
            threshold = flat[int((1 - sparsity) * len(flat) + 1e-6) - 1]
            kept[task] = {layer: scores[layer].numpy() >= threshold for layer in layers}
        for column, (p, q) in enumerate(combinations(TASKS, 2)):
            values: dict[str, list[float]] = {metric: [] for metric in METRICS}
            weights: dict[str, list[float]] = {weighting: [] for weighting in WEIGHTINGS}
            for place, layer in enumerate(layers):
                (a, b), (s, t) = (kept[p][layer], kept[q][layer]), (saliencies[p][layer], saliencies[q][layer])
                s, t = s.double().numpy(), t.double().numpy()
                alike = 1 - abs(int(a.sum()) - int(b.sum())) / (a.sum() + b.sum())
                values["epi"].append(alike)
                values["iou"].append((a & b).sum() / (a | b).sum())
                values["css"].append((s * t).sum() / np.sqrt((s * s).sum() * (t * t).sum()))
                values["mcss"].append((s * t * a * b).sum() / np.sqrt((s * s * a).sum() * (t * t * b).sum()))
                sparse = 1 - a.mean(), 1 - b.mean()
                for weighting, weight in zip(
                    WEIGHTINGS, (1, place, place + 1, 0, sum(sparse), min(sparse), alike), strict=True
                ):
                    weights[weighting].append(weight)
            for metric in METRICS:
                np.testing.assert_allclose(by_layer[metric][row, column], values[metric], rtol=1e-6)
                for weighting in set(WEIGHTINGS) - {"step"}:
                    expected = np.average(values[metric], weights=weights[weighting])
                    assert means[metric, weighting][row, column] == pytest.approx(expected, rel=1e-6)
                assert np.isnan(means[metric, "step"][row, column])  # three layers, all of them among the first five


def test_a_task_and_its_twin_are_one_in_every_way() -> None:
    saliencies = random_saliencies()
    twin = {name.replace("depth", "twin"): score * 7 for name, score in saliencies["depth"].items()}
    by_layer, means = compare({"depth": saliencies["depth"], "twin": twin}, ("trunk.0", "trunk.1"), RelateConfig())
    for metric in METRICS:
        np.testing.assert_allclose(by_layer[metric], 1, atol=1e-9)
        np.testing.assert_allclose(means[metric, "equal"], 1, atol=1e-9)


def test_a_relation_is_seeded_averaged_and_in_range() -> None:
    config = RelateConfig(batches=2, seeds=2, sparsities=(0.3, 0.5, 0.7))
    calls: list[tuple[int, int, str]] = []
    found = relate(recipe(), config, progress=lambda done, total, text: calls.append((done, total, text)))
    assert [call[:2] for call in calls] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(name.startswith("trunk.") for name in found.layers)
    values = found.values["mcss", "equal"]
    assert values.shape == (2, 3, 3)
    assert (values > 0).all()
    assert (values < 1).all()
    np.testing.assert_allclose(found.per_seed(), values[:, 1:].mean(axis=1))  # 0.5 and 0.7, not 0.3
    weighted = found.layer_values["mcss"].mean(axis=-1)
    np.testing.assert_allclose(values, weighted)
    later = relate(recipe(train={"seed": 1, "loss_weights": {"depth": 50.0}}), config.model_copy(update={"seeds": 1}))
    np.testing.assert_allclose(later.values["iou", "linear"][0], found.values["iou", "linear"][1], rtol=1e-6)
    np.testing.assert_allclose(later.values["css", "equal"][0, 0], later.values["css", "equal"][0, 2])


def test_files_hold_every_measure_and_are_whole(tmp_path: Path) -> None:
    found = relate(recipe(), RelateConfig(batches=1, seeds=2, sparsities=(0.5, 0.9), weighting="linear"))
    summary = save(found, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "relate.json").read_text()) == summary
    assert (tmp_path / "out" / "relate.png").read_bytes().startswith(b"\x89PNG")
    picture = (tmp_path / "out" / "relate.svg").read_text()
    assert all(task in picture for task in TASKS)
    assert f"{found.per_seed().mean(axis=0)[0]:.3f}" in picture
    assert len(summary["similarities"]) == len(METRICS) * len(WEIGHTINGS) * 3
    assert len(summary["layer_similarities"][0]["per_sparsity"]["0.9"]) == len(found.layers)
    chosen = [s for s in summary["similarities"] if s["similarity"] == "mcss" and s["weighting"] == "linear"]
    for index, entry in enumerate(chosen):
        assert entry["tasks"] == list(found.pairs[index])
        assert entry["mean"] == pytest.approx(entry["per_sparsity"]["0.5"]["mean"])  # 0.9 does not count
        low, high = sorted(entry["seeds"])
        assert entry["spread"] == pytest.approx((high - low) / 2**0.5)
    assert sorted(sum(summary["grouping"]["groups"], [])) == sorted(TASKS)  # noqa: RUF017
    assert summary["grouping"]["seeds_that_agree"] in (0, 1, 2)
    with pytest.raises(InputError, match="exists already"):
        save(found, tmp_path / "out")


def test_scene_net_34_has_the_36_trunk_layers_of_the_study() -> None:
    tasks = (TaskSpec(name="depth", kind="depth", channels=1), TaskSpec(name="normals", kind="normals", channels=3))
    model = multitask_net(tasks=tasks, trunk="resnet34", width=0.125, head="scene", head_hidden=8)
    names = [name for name in prunable_weights(model) if name.startswith("trunk.")]
    assert len(names) == 36
    assert names[0] == "trunk.stem.0.weight"


def test_bad_input_is_a_sentence() -> None:
    with pytest.raises(InputError, match="at least two tasks"):
        relate(recipe(data={"tasks": ["depth"]}))
    with pytest.raises(InputError, match=r"raise train\.batch"):
        relate(recipe(model={"head": "deeplab"}, train={"batch": 1}), RelateConfig(batches=1, seeds=1))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no CUDA device"):
            relate(recipe(train={"accelerator": "cuda"}))
