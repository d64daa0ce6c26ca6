"""Training data of a network on the command line: from the recipe that its checkpoint or the user names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimtask.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from slimtask.checkpoint import Checkpoint
    from slimtask.compress.score.gradients import Loss
    from slimtask.tasks import Preprocessing, TaskSpec
    from slimtask.train.data.config import DataConfig
    from slimtask.train.data.dataset import TransformedDataset
    from slimtask.train.recipe import Recipe

IMAGES = 64
WEIGHING_IMAGES = 16
BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Data:
    """A recipe, its data at the network's size, and those of the network's tasks that it has targets for."""

    recipe: Recipe
    config: DataConfig
    tasks: tuple[TaskSpec, ...]
    size: Preprocessing

    def split(self, name: str) -> TransformedDataset:
        """Return the split "train" or "val"."""
        from slimtask.train.data.config import open_dataset

        return open_dataset(self.config, name)


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

    With ``targets`` every task of the network needs targets; without, its images suffice, and ``tasks`` are those that
    happen to have some. Raises InputError, which offers ``instead``, where that is not so.
    """
    from slimtask.train.data.config import open_dataset

    if checkpoint.preprocessing is None:
        raise InputError(f"{what} needs a network of one RGB image, this one takes other inputs; {instead}.")
    if targets and not checkpoint.tasks:
        raise InputError(f"{what} needs the losses of tasks on RGB images; give --tasks, {instead}.")
    chosen, size = recipe_of(checkpoint.provenance, recipe, what, f", {instead}"), checkpoint.preprocessing
    sized = chosen.data.model_copy(update={"height": size.height, "width": size.width})
    names = tuple(task.name for task in checkpoint.tasks) if targets else None
    dataset = open_dataset(sized.model_copy(update={"tasks": names}), "train")
    if len(dataset) == 0:
        raise InputError(f"the train split of '{sized.name}' is empty; give it more images.")
    theirs = {task.name: (task.kind, task.channels) for task in dataset.tasks}
    fitting = tuple(task for task in checkpoint.tasks if theirs.get(task.name) == (task.kind, task.channels))
    if targets and len(fitting) < len(checkpoint.tasks):
        task = next(task for task in checkpoint.tasks if task not in fitting)
        raise InputError(
            f"task '{task.name}' is {task.kind} with {task.channels} channels in the network and "
            f"{theirs[task.name][0]} with {theirs[task.name][1]} in the data '{sized.name}'; give the "
            "recipe of its data."
        )
    read = tuple(task.name for task in fitting) or (dataset.tasks[0].name,)
    config = sized.model_copy(update={"tasks": read})
    return Data(recipe=chosen, config=config, tasks=fitting, size=size)


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
