"""The tasks' relationship: figures against counts by hand, and a tiny run from recipes to files."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slimtask.bench.studies.relationship import __main__ as relationship
from slimtask.bench.studies.relationship.__main__ import fingerprint, main, masks_overlap, verdicts
from slimtask.bench.studies.relationship.report import compact, markdown
from slimtask.compress.structures.masks import Masks
from slimtask.errors import InputError
from slimtask.train.methods.masks.overlap import overlap
from slimtask.train.recipe import load_recipe
from slimtask.train.relate.config import METRICS, WEIGHTINGS, RelateConfig
from slimtask.train.relate.relation import Relation

LAYERS = ("trunk.stem.0.weight", "trunk.layer1.0.residual.0.weight", "trunk.layer1.1.residual.0.weight",
          "trunk.layer2.0.residual.0.weight", "trunk.layer2.0.shortcut.0.weight")  # fmt: skip
MASKED = """\
name: tiny
data: {name: scenes, height: 32, width: 32, train: 8, val: 4, test: 4, tasks: [depth, normals, objects], cache: true}
model: {width: 0.125, head_hidden: 8}
train: {batch: 4}
masks: {method: disparse, when: static, sparsity: 0.9, batches: 1}
"""
RELATED = MASKED.replace("masks:", "# masks:") + "relate: {batches: 1, seeds: 2, sparsities: [0.5, 0.9]}\n"


def shared(counts: tuple[int, ...]) -> Any:
    """Return the overlap of two tasks that keep ten entries each of every layer, ``counts`` of them in common."""
    own: dict[str, dict[str, torch.Tensor]] = {"a": {}, "b": {}}
    for name, count in zip(LAYERS, counts, strict=True):
        places = torch.arange(20)
        own["a"][name], own["b"][name] = places < 10, (places >= 10 - count) & (places < 20 - count)
    return overlap(Masks(per_task=own))


def test_the_fingerprint_is_what_the_masks_say() -> None:
    found = fingerprint([shared((10, 9, 9, 5, 0)), shared((10, 10, 8, 9, 0))])
    iou = [[count / (20 - count) for count in counts] for counts in ((10, 9, 9, 5, 0), (10, 10, 8, 9, 0))]
    for place, layer in enumerate(found["layers"]):
        assert layer["layer"] == LAYERS[place]
        assert layer["iou"] == pytest.approx([iou[0][place], iou[1][place]], abs=1e-4)
    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert list(stages) == ["stem", "layer1", "layer2"]
    means = [(iou[0][place] + iou[1][place]) / 2 for place in (1, 2)]
    assert stages["layer1"]["min"] == pytest.approx(min(means), abs=1e-4)
    assert stages["layer1"]["max"] == pytest.approx(max(means), abs=1e-4)
    assert stages["layer2"]["mean"] == pytest.approx((iou[0][3] + iou[1][3]) / 2, abs=1e-4)  # without its shortcut
    assert found["stage_means_fall"] == 2  # 1, .818, .333 and 1, .833, .818
    assert found["stage_1_above"] == 1  # 9 of 11 is above 0.8, 8 of 12 is not
    assert (found["steps"], found["steps_that_fall"]) == (3, [2, 1])
    assert found["largest_rise"] == pytest.approx([0.0, 9 / 11 - 8 / 12], abs=1e-4)


def related(values: np.ndarray) -> Relation:
    config = RelateConfig(seeds=2, sparsities=(0.5, 0.9), average_over=(0.5, 0.9))
    every = {(metric, weighting): values for metric in METRICS for weighting in WEIGHTINGS}
    layers = dict.fromkeys(METRICS, values[..., None])
    tasks = ("depth", "normals", "objects", "room")
    return Relation(tasks=tasks, layers=("trunk.a",), config=config, values=every, layer_values=layers)


def test_verdicts_count_seeds_and_ties_do_not_win() -> None:
    pairs = list(combinations(("depth", "normals", "objects", "room"), 2))
    values = np.full((2, 2, len(pairs)), 0.1)
    near, rival, stranger = (pairs.index(pair) for pair in (("depth", "normals"), ("normals", "objects"),
                                                            ("objects", "room")))  # fmt: skip
    values[:, :, near] = [[0.9, 0.5], [0.9, 0.5]]
    values[0, :, rival] = [0.2, 0.5]  # a tie at 90 %
    values[1, 0, stranger] = 0.95  # closest of all at 50 %, but neither has depth or normals
    found = verdicts(related(values))
    for row in found["counts"]:
        assert row["closer"] == [2, 1, 2]
        assert row["closest"] == [1, 1, 2]
    assert len(found["counts"]) == 28
    assert found["averaged_over"] == [0.5, 0.9]
    assert all(groups == ["depth, normals | objects, room"] * 2 for groups in found["groupings"].values())
    assert next(iter(found["means"]["mcss"])) == "depth - normals"


def test_a_tiny_run_writes_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "masks.yaml").write_text(MASKED)
    (tmp_path / "relate.yaml").write_text(RELATED)
    monkeypatch.setattr(relationship, "SEEDS", 2)
    monkeypatch.setattr(relationship, "HEADS", {"light": ()})
    out = tmp_path / "out" / "relationship.json"
    arguments = ["--masks", str(tmp_path / "masks.yaml"), "--relate", str(tmp_path / "relate.yaml")]
    main([*arguments, "--set", "masks.batches=1", "--json", str(out)])
    result = json.loads(out.read_text())
    assert out.with_suffix(".md").read_text() == markdown(result)
    assert out.with_suffix(".svg").read_text().startswith("<?xml")
    recipe = load_recipe(tmp_path / "masks.yaml")
    for seed in range(2):
        again, reached = masks_overlap(recipe, seed)
        light = result["fingerprint"]["heads"]["light"]
        assert reached["overall_sparsity"] == pytest.approx(0.9, abs=0.001)
        assert light["total"][seed] == pytest.approx(again.total.mean, abs=1e-4)
        assert [layer["iou"][seed] for layer in light["layers"]] == pytest.approx(
            [layer.mean for layer in again.layers.values()], abs=1e-4
        )
    assert all(len(row["closer"]) == 3 for row in result["relate"]["counts"])
    with pytest.raises(InputError, match="has no masks section"):
        masks_overlap(load_recipe(tmp_path / "relate.yaml"), 0)


def test_compact_json_is_the_same_json() -> None:
    value = {"a": [1, 2.5, None], "b": [["x, y | z", "[no]"], {"c": []}], "d": {"e": [True]}}
    assert json.loads(compact(value)) == value
    assert '"a": [1, 2.5, null]' in compact(value)
