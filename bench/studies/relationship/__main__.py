"""How tasks relate before any training, on the generated scenes: ``python -m slimtask.bench.studies.relationship``.

Two findings are looked for. DiSparse (CVPR 2022, section 4.4): the tasks' static masks agree in early layers and part
in late ones. The meta-sparse study (Ravi et al., 2023): subnetworks at initialisation say which tasks are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int

from slimtask.bench.studies.harness import parser_of, run_study, say
from slimtask.bench.studies.relationship.report import compact, markdown, save_plot
from slimtask.bench.timing.environment import environment
from slimtask.errors import InputError
from slimtask.files import write_text
from slimtask.tasks import Preprocessing
from slimtask.train.batches import Batches
from slimtask.train.data.config import open_dataset
from slimtask.train.methods.masks.choose import choose_masks
from slimtask.train.methods.masks.overlap import Overlap, is_shortcut, overlap
from slimtask.train.methods.masks.training import sparsities
from slimtask.train.prepare import chosen_tasks, initial_model
from slimtask.train.recipe import Recipe, load_recipe
from slimtask.train.relate.config import METRICS, WEIGHTINGS
from slimtask.train.relate.grouping import group_tasks
from slimtask.train.relate.relate import relate
from slimtask.train.relate.relation import Relation
from slimtask.train.weighting import weighting_of

MASKS, RELATE = Path("recipes/scenes/disparse_static.yaml"), Path("recipes/scenes/relate.yaml")
SETTINGS = ("model.trunk=resnet34", "masks.sparsity=0.9", "masks.batches=30")
HEADS = {"light": (), "scene": ("model.head=scene", "model.head_hidden=64")}
SEEDS = 3
ABOVE = 0.8  # what is expected of every layer of stage 1; DiSparse's NYU-v2 masks have .893 to .947 there
PAIR, OTHER = ("depth", "normals"), "objects"


def masks_overlap(recipe: Recipe, seed: int) -> tuple[Overlap, dict[str, float]]:
    """Return the overlap and the sparsities of the masks that the recipe's ``masks`` section gives before training."""
    config = recipe.masks
    if config is None:
        raise InputError(f"the recipe '{recipe.name}' has no masks section; give one such as {MASKS}.")
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": seed})})
    data = open_dataset(recipe.data, "train")
    tasks = chosen_tasks(data.tasks, recipe.train)
    torch.manual_seed(seed)
    model = initial_model(recipe, tasks)
    size = Preprocessing(height=recipe.data.height, width=recipe.data.width)
    batches = Batches(data, size, batch=recipe.train.batch, seed=seed)
    given = (batches(number) for number in range(config.batches))
    masks, _ = choose_masks(config, model, tasks, given, weighting_of("fixed", tasks), seed)
    return overlap(masks), sparsities(masks.union())


def fingerprint(found: Sequence[Overlap]) -> dict[str, Any]:
    """Return the mean IoU over pairs of tasks by layer and stage of several seeds' masks, and what it does with depth.

    Stages and checks leave projection shortcuts aside. A stage has the least, mean and greatest of its layers' means
    over the seeds; a check, the number of seeds in which it holds.
    """
    layers = list(found[0].layers)
    values = np.array([[one.layers[name].mean for name in layers] for one in found])
    straight = np.array([not is_shortcut(name) for name in layers])
    stages = np.array([name.split(".")[1] for name in layers])
    names = list(dict.fromkeys(stages.tolist()))
    means = np.array([values[:, straight & (stages == name)].mean(axis=1) for name in names])
    steps = np.diff(values[:, straight], axis=1)
    return {
        "tasks": list(found[0].tasks),
        "layers": [
            {"layer": name, "stage": str(stage), "iou": _rounded(values[:, place])}
            for place, (name, stage) in enumerate(zip(layers, stages, strict=True))
        ],
        "stages": [{"stage": name, **_range(values[:, straight & (stages == name)].mean(axis=0))} for name in names],
        "total": _rounded(np.array([one.total.mean for one in found])),
        "watershed": [one.watershed for one in found],
        "seeds": len(found),
        "stage_means_fall": int((np.diff(means, axis=0) < 0).all(axis=0).sum()),
        "stage_1_above": int((values[:, straight & (stages == "layer1")] > ABOVE).all(axis=1).sum()),
        "steps": steps.shape[1],
        "steps_that_fall": (steps < 0).sum(axis=1).tolist(),
        "largest_rise": _rounded(steps.max(axis=1)),
    }


def verdicts(relation: Relation, pair: tuple[str, str] = PAIR, other: str = OTHER) -> dict[str, Any]:
    """Return in how many seeds ``pair`` is the closest of all, and closer than either of it to ``other``.

    One number for each sparsity, and the last for their mean over those that count; by measure and layer weighting.
    """
    pairs = [frozenset(one) for one in relation.pairs]
    near, rivals = pairs.index(frozenset(pair)), [pairs.index(frozenset({task, other})) for task in pair]
    rows = []
    for metric in METRICS:
        for weighting in WEIGHTINGS:
            by_sparsity = np.moveaxis(relation.values[metric, weighting], 1, 0)
            columns = np.concatenate([by_sparsity, relation.per_seed(metric, weighting)[None]])
            closest, closer = (
                _wins(columns, near, against) for against in ([i for i in range(len(pairs)) if i != near], rivals)
            )
            rows.append({"similarity": metric, "weighting": weighting, "closest": closest, "closer": closer})
    return {
        "tasks": list(relation.tasks),
        "pair": list(pair),
        "other": other,
        "seeds": relation.config.seeds,
        "sparsities": list(relation.config.sparsities),
        "averaged_over": [relation.config.sparsities[index] for index in relation.config.averaged],
        "counts": rows,
        "groupings": {
            metric: [_groups(relation, values) for values in relation.per_seed(metric)] for metric in METRICS
        },
        "means": {metric: _means(relation, relation.per_seed(metric)) for metric in METRICS},
    }


def _wins(columns: Float64[np.ndarray, "columns seeds pairs"], near: int, against: Sequence[int]) -> list[int]:
    """Return for every column in how many seeds the pair ``near`` is above all pairs ``against``."""
    wins: Int[np.ndarray, " columns"] = (columns[:, :, near] > columns[:, :, list(against)].max(axis=2)).sum(axis=1)
    return [int(count) for count in wins]


def _groups(relation: Relation, values: Float64[np.ndarray, " pairs"]) -> str:
    config = relation.config
    found = group_tasks(relation.tasks, relation.matrix(values), config.groups, alone=config.alone)
    return " | ".join(", ".join(group) for group in found.groups)


def _means(relation: Relation, values: Float64[np.ndarray, "seeds pairs"]) -> dict[str, float]:
    """Return the mean over the seeds by pair, the closest pair first."""
    means = values.mean(axis=0)
    return {" - ".join(relation.pairs[index]): round(float(means[index]), 4) for index in np.argsort(-means)}


def _range(values: Float64[np.ndarray, " layers"]) -> dict[str, float]:
    return {name: round(float(getattr(values, name)()), 4) for name in ("min", "mean", "max")}


def _rounded(values: Float64[np.ndarray, " n"]) -> list[float]:
    return [round(float(value), 4) for value in values]


def measure(
    masks: Path, relate_recipe: Path, settings: Sequence[str], relate_settings: Sequence[str]
) -> dict[str, Any]:
    """Return the JSON-ready result of both parts; ``settings`` override the recipe of the masks before the heads do."""
    parts: dict[str, Any] = {}
    for name, changes in HEADS.items():
        recipe = load_recipe(masks, [*settings, *changes])
        found = []
        for seed in range(recipe.train.seed, recipe.train.seed + SEEDS):
            say(f"masks, {name} heads, seed {seed}")
            found.append(masks_overlap(recipe, seed))
        trunk = _rounded(np.array([reached["trunk_sparsity"] for _, reached in found]))
        facts = {"settings": [*settings, *changes], "trunk_sparsity": trunk}
        parts[name] = facts | fingerprint([one for one, _ in found])
    recipe = load_recipe(relate_recipe, list(relate_settings))
    relation = relate(recipe, recipe.relate, progress=lambda done, total, text: say(f"relate, {text}, {done}/{total}"))
    return {
        "schema": 1,
        "command": "make relationship",
        "environment": environment(),
        "fingerprint": {"recipe": str(masks), "above": ABOVE, "heads": parts},
        "relate": {"recipe": str(relate_recipe), **verdicts(relation)},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables and, with ``--json FILE``, write the result with .md and .svg beside it."""
    parser = parser_of("relationship", __doc__)
    parser.add_argument("--masks", type=Path, default=MASKS, help="recipe with a masks section")
    parser.add_argument("--relate", type=Path, default=RELATE, help="recipe with a relate section")
    parser.add_argument("--set", dest="settings", action="append", help="override a key of the masks' recipe")
    parser.add_argument("--relate-set", dest="relate_settings", action="append", help="and of the relate recipe")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file")
    options = parser.parse_args(arguments)
    result = measure(options.masks, options.relate, options.settings or SETTINGS, options.relate_settings or ())
    print(markdown(result))
    if options.json:
        write_text(options.json, compact(result))
        write_text(options.json.with_suffix(".md"), markdown(result))
        save_plot(result, options.json.with_suffix(".svg"))


if __name__ == "__main__":
    run_study("relationship", main)
