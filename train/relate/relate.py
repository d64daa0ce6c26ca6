"""Task similarity without training: saliencies of fresh networks, their subnetworks, how alike those are.

Costs one forward pass and one backward pass per task for every batch and seed. Nothing is cached: the saliencies of a
seed are compared and dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from slimtask.architectures import build
from slimtask.errors import InputError
from slimtask.files import atomic_directory, write_json
from slimtask.tasks import Preprocessing, TaskSpec
from slimtask.train.batches import Batch, Batches
from slimtask.train.data.config import open_dataset
from slimtask.train.recipe import Recipe
from slimtask.train.relate.config import METRICS, WEIGHTINGS, Metric, RelateConfig, Weighting
from slimtask.train.relate.relation import Relation
from slimtask.train.relate.similarity import layer_similarity, layer_weights, shared_layers, weighted_mean
from slimtask.train.saliency import Saliencies, task_masks, task_saliencies

Progress = Callable[[int, int, str], None]
LayerValues = dict[Metric, Float64[np.ndarray, "sparsities pairs layers"]]
Values = dict[tuple[Metric, Weighting], Float64[np.ndarray, "sparsities pairs"]]


def relate(recipe: Recipe, config: RelateConfig | None = None, *, progress: Progress | None = None) -> Relation:
    """Return how alike the recipe's tasks are, measured on its training images at ``config.seeds`` fresh networks.

    Seed r of the run is ``train.seed`` + r: it draws the weights, the order and augmentation of the images, and the
    dropout. The loss weights and ``train.init`` of the recipe have no part in it. ``progress(done, total, text)`` is
    called after every batch. InputError for bad input, and if the tasks cannot be compared.
    """
    import slimtask.train.models  # noqa: F401  registers the architectures

    config = config or RelateConfig()
    data = open_dataset(recipe.data, "train")
    if len(data) == 0 or len(data.tasks) < 2:
        raise InputError(
            f"relate compares at least two tasks on at least one image; '{recipe.data.name}' has {len(data.tasks)} "
            f"task(s) and {len(data)} training images here."
        )
    report = progress or (lambda done, total, text: None)
    layers: tuple[str, ...] = ()
    found: list[tuple[LayerValues, Values]] = []
    for index in range(config.seeds):
        seed = recipe.train.seed + index
        size = Preprocessing(height=recipe.data.height, width=recipe.data.width)
        source = Batches(data, size, batch=recipe.train.batch, seed=seed)
        batches = _reported(source, config, index, report)
        saliencies = _saliencies(recipe, data.tasks, batches, seed)
        layers = shared_layers(saliencies)
        found.append(compare(saliencies, layers, config))
        if bool(np.isnan(found[-1][1][config.similarity, config.weighting]).any()):
            raise InputError(
                f"the layer weighting '{config.weighting}' gives no weight to any of the trunk's {len(layers)} layers; "
                "set relate.weighting to another, such as equal."
            )
    return Relation(
        tasks=tuple(task.name for task in data.tasks),
        layers=layers,
        config=config,
        values={key: np.stack([values[key] for _, values in found]) for key in found[0][1]},
        layer_values={metric: np.stack([by_layer[metric] for by_layer, _ in found]) for metric in METRICS},
    )


def save(relation: Relation, out: Path | str) -> dict[str, Any]:
    """Write relate.json, relate.png and relate.svg to the new folder ``out`` and return what relate.json holds."""
    from slimtask.train.relate.heatmap import save_heatmap

    summary = relation.summary()
    with atomic_directory(out) as folder:
        write_json(folder / "relate.json", summary)
        for suffix in ("png", "svg"):
            save_heatmap(relation, folder / f"relate.{suffix}")
    return summary


def compare(saliencies: Saliencies, layers: Sequence[str], config: RelateConfig) -> tuple[LayerValues, Values]:
    """Return the similarities of all pairs of tasks by layer, and their means under each layer weighting.

    Masks have a global threshold over the trunk and the task's own head; only the trunk's ``layers`` are compared.
    """
    pairs = list(combinations(saliencies, 2))
    shape = (len(config.sparsities), len(pairs))
    by_layer: LayerValues = {metric: np.zeros((*shape, len(layers))) for metric in METRICS}
    means: Values = {(metric, weighting): np.zeros(shape) for metric in METRICS for weighting in WEIGHTINGS}
    sizes = np.array([next(iter(saliencies.values()))[layer].numel() for layer in layers])
    for row, sparsity in enumerate(config.sparsities):
        masks = task_masks(saliencies, config.keep_ratio(sparsity)).per_task
        kept = {task: _kept(masks[task], layers) for task in saliencies}
        for column, (p, q) in enumerate(pairs):
            for metric in METRICS:
                by_layer[metric][row, column] = [
                    layer_similarity(
                        metric,
                        (saliencies[p][layer], saliencies[q][layer]),
                        (masks[p][layer], masks[q][layer]),
                    )
                    for layer in layers
                ]
            for weighting in WEIGHTINGS:
                weights = layer_weights(weighting, kept[p], kept[q], sizes)
                for metric in METRICS:
                    means[metric, weighting][row, column] = weighted_mean(by_layer[metric][row, column], weights)
    return by_layer, means


def _kept(masks: Mapping[str, Bool[Tensor, "..."]], layers: Sequence[str]) -> Int[np.ndarray, " layers"]:
    return np.array([int(masks[layer].sum()) for layer in layers])


def _saliencies(recipe: Recipe, tasks: tuple[TaskSpec, ...], batches: Iterator[Batch], seed: int) -> Saliencies:
    torch.manual_seed(seed)
    model = build("multitask-net", recipe.model.model_dump(), tasks).to(_device(recipe))
    try:
        return task_saliencies(model, batches, tasks, seed=seed)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError("BatchNorm needs more than one image a batch with this head; raise train.batch.") from None


def _device(recipe: Recipe) -> torch.device:
    cuda = torch.cuda.is_available()
    if recipe.train.accelerator == "cuda" and not cuda:
        raise InputError("train.accelerator is cuda, but no CUDA device is visible; set it to auto or cpu.")
    return torch.device("cuda" if cuda and recipe.train.accelerator != "cpu" else "cpu")


def _reported(batches: Batches, config: RelateConfig, index: int, report: Progress) -> Iterator[Batch]:
    """Yield one seed's batches, telling of each when it is done."""
    total = config.seeds * config.batches
    for step in range(config.batches):
        yield batches(step)
        report(index * config.batches + step + 1, total, f"seed {index + 1} of {config.seeds}")
