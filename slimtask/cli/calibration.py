"""Training data of a network on the command line: from the recipe that its checkpoint or the user names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimtask.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from slimtask.checkpoint import Checkpoint
    from slimtask.compress.score.gradients import Loss
    from slimtask.train.prepare import Data
    from slimtask.train.recipe import Recipe

IMAGES = 64
WEIGHING_IMAGES = 16
BATCH = 8


def calibration(checkpoint: Checkpoint, recipe: Path | None, criterion: str) -> tuple[list[Any], Loss]:
    """Return (batches, loss): 64 training images spread over the data set, and the loss of each task by name.

    The data are those of ``recipe``, or of the recipe that the checkpoint was trained with. Raises InputError if there
    is none, or its data set has not the checkpoint's tasks.
    """
    from slimtask.compress.network.by_task import by_task
    from slimtask.train.losses import task_loss

    data = open_data(checkpoint, recipe, f"--importance {criterion}", "or --importance l2, which needs none")
    tasks = data.tasks
    batches = _spread(data, IMAGES)

    def loss(model: Any, batch: Any) -> dict[str, Any]:
        images, targets = batch
        outputs = by_task(model(images), tasks)
        return {task.name: task.weight * task_loss(outputs[task.name], targets[task.name], task) for task in tasks}

    return batches, loss


def weighing_images(checkpoint: Checkpoint, recipe: Path | None) -> list[Tensor] | None:
    """Return 16 training images spread over the data set, in batches [8, 3, H, W], to weigh groups on; None if no data.

    The data are those of ``recipe``, or of the recipe that the checkpoint was trained with where it has one and its
    data are there. Raises InputError if ``recipe`` is given and cannot serve.
    """
    try:
        data = open_data(checkpoint, recipe, "--calibration", "or leave it out", targets=False)
        return [images for images, _ in _spread(data, WEIGHING_IMAGES)]
    except InputError:
        if recipe is not None:
            raise
        return None


def _spread(data: Data, most: int) -> list[Any]:
    """Return (images, targets) of at most ``most`` training samples, in batches."""
    from slimtask.train.data.protocol import collate

    dataset = data.split("train")
    count = min(most, len(dataset))
    chosen = [index * len(dataset) // count for index in range(count)]
    return [
        collate([dataset[index] for index in chosen[start : start + BATCH]], data.size)
        for start in range(0, count, BATCH)
    ]


def open_data(checkpoint: Checkpoint, recipe: Path | None, what: str, instead: str, *, targets: bool = True) -> Data:
    """Return the data of ``recipe``, or of the recipe that the checkpoint was trained with, for the option ``what``.

    ``targets`` and further errors are those of ``data_for``. Raises InputError, which offers ``instead``, where there
    are no data for the network.
    """
    from slimtask.train.prepare import data_for

    if checkpoint.preprocessing is None:
        raise InputError(f"{what} needs a network of one RGB image, this one takes other inputs; {instead}.")
    if targets and not checkpoint.tasks:
        raise InputError(f"{what} needs the losses of tasks on RGB images; give --tasks, {instead}.")
    chosen = recipe_of(checkpoint.provenance, recipe, what, f", {instead}")
    return data_for(checkpoint, chosen, targets=targets)


def recipe_of(
    provenance: Mapping[str, Any], path: Path | None, what: str, instead: str = "", option: str = "--calibration"
) -> Recipe:
    """Return the recipe that ``path`` names, or that ``provenance`` says a network was trained with, for ``what``.

    Raises InputError, which offers ``option`` and ``instead``, if there is neither.
    """
    from slimtask.train.recipe import load_recipe, parse_recipe

    if path is not None:
        return load_recipe(path)
    written = provenance.get("recipe")
    if not isinstance(written, dict):
        raise InputError(
            f"{what} needs data, and the network comes without the recipe it was trained with; give "
            f"{option} RECIPE (its data section is used){instead}."
        )
    return parse_recipe(written, "the recipe in the checkpoint")
