"""Batches and losses for the criteria that look at the loss: from the recipe that a checkpoint or the user names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimtask.errors import InputError

if TYPE_CHECKING:
    from slimtask.checkpoint import Checkpoint
    from slimtask.compress.saliency import Loss
    from slimtask.train.recipe import Recipe

IMAGES = 64
BATCH = 8


def calibration(checkpoint: Checkpoint, recipe: Path | None, criterion: str) -> tuple[list[Any], Loss]:
    """Return (batches, loss): 64 training images spread over the data set, and the loss of each task by name.

    The data are those of ``recipe``, or of the recipe that the checkpoint was trained with. Raises InputError if there
    is none, or its data set has not the checkpoint's tasks.
    """
    from slimtask.compress.foreign import by_task
    from slimtask.train.data.config import open_dataset
    from slimtask.train.data.protocol import collate
    from slimtask.train.losses import task_loss

    if not checkpoint.tasks or checkpoint.preprocessing is None:
        raise InputError(
            f"--importance {criterion} needs the losses of tasks on RGB images; give --tasks, or --importance l2."
        )
    tasks, size = checkpoint.tasks, checkpoint.preprocessing
    data = _recipe(checkpoint, recipe, criterion).data
    names = tuple(task.name for task in tasks)
    dataset = open_dataset(
        data.model_copy(update={"tasks": names, "height": size.height, "width": size.width}), "train"
    )
    theirs = {task.name: (task.kind, task.channels) for task in dataset.tasks}
    for task in tasks:
        if theirs[task.name] != (task.kind, task.channels):
            raise InputError(
                f"task '{task.name}' is {task.kind} with {task.channels} channels in the network and "
                f"{theirs[task.name][0]} with {theirs[task.name][1]} in the data '{data.name}'; give the "
                "recipe of its data."
            )
    count = min(IMAGES, len(dataset))
    chosen = [index * len(dataset) // count for index in range(count)]
    batches = [
        collate([dataset[index] for index in chosen[start : start + BATCH]], size) for start in range(0, count, BATCH)
    ]

    def loss(model: Any, batch: Any) -> dict[str, Any]:
        images, targets = batch
        outputs = by_task(model(images), tasks)
        return {task.name: task.weight * task_loss(outputs[task.name], targets[task.name], task) for task in tasks}

    return batches, loss


def _recipe(checkpoint: Checkpoint, path: Path | None, criterion: str) -> Recipe:
    from slimtask.train.recipe import load_recipe, parse_recipe

    if path is not None:
        return load_recipe(path)
    written = checkpoint.provenance.get("recipe")
    if not isinstance(written, dict):
        raise InputError(
            f"--importance {criterion} needs data, and the network comes without the recipe it was trained with; give "
            "--calibration RECIPE (its data section is used), or --importance l2, which needs none."
        )
    return parse_recipe(written, "the recipe in the checkpoint")
