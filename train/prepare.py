"""What a run is made of before it starts: splits, tasks with their weights, the network."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from slimtask.architectures import build
from slimtask.checkpoint import Checkpoint
from slimtask.compress.rebuilding import rebuild
from slimtask.errors import InputError
from slimtask.tasks import TaskSpec, select_tasks
from slimtask.train.data.config import open_dataset
from slimtask.train.data.protocol import MultiTaskDataset
from slimtask.train.losses import loss_function
from slimtask.train.metrics import check_metrics
from slimtask.train.models.vit import VITS, check_sides
from slimtask.train.recipe import Recipe, TrainConfig


def open_splits(recipe: Recipe) -> tuple[MultiTaskDataset, MultiTaskDataset, MultiTaskDataset]:
    """Return the train, val and test split, opened before anything is trained.

    Raises InputError for an empty one, and for images of a size that the recipe's network does not take.
    """
    if recipe.model.trunk in VITS:
        check_sides(VITS[recipe.model.trunk].patch, recipe.data.height, recipe.data.width)
    splits = []
    for name in ("train", "val", "test"):
        split = open_dataset(recipe.data, name)
        if len(split) == 0:
            raise InputError(f"the {name} split of '{recipe.data.name}' is empty; give it more images.")
        splits.append(split)
    return splits[0], splits[1], splits[2]


def chosen_tasks(tasks: tuple[TaskSpec, ...], config: TrainConfig) -> tuple[TaskSpec, ...]:
    """Return the tasks with the recipe's loss weights and losses in place of their own.

    Raises InputError for a task that is not there, a loss that its kind does not have, and an unknown metric.
    """
    select_tasks(tasks, config.loss_weights)
    select_tasks(tasks, config.losses)
    chosen = []
    for task in tasks:
        loss, weight = config.losses.get(task.name, task.loss), config.loss_weights.get(task.name, task.weight)
        weight = 1.0 if config.weighting == "sum" else weight  # selection sees the sum that is trained
        chosen.append(task.model_copy(update={"weight": weight, "loss": loss}))
        loss_function(chosen[-1])
    check_metrics(chosen, config.metrics)
    return tuple(chosen)


def initial_model(recipe: Recipe, tasks: tuple[TaskSpec, ...]) -> nn.Module:
    """Return the recipe's network, freshly initialised or with the weights of the checkpoint ``train.init``."""
    import slimtask.train.models  # noqa: F401  registers the architectures

    if recipe.train.init is None:
        fresh: nn.Module = build("multitask-net", recipe.model.model_dump(), tasks)
        return fresh
    if not Path(recipe.train.init).is_file():
        raise InputError(
            f"train.init '{recipe.train.init}' does not exist; train that network first, with a dense recipe, or set "
            "train.init to the checkpoint of one."
        )
    checkpoint = Checkpoint.load(recipe.train.init)
    kinds = [[(task.name, task.kind, task.channels) for task in some] for some in (checkpoint.tasks, tasks)]
    if kinds[0] != kinds[1]:
        raise InputError(f"train.init '{recipe.train.init}' was trained for other tasks than the recipe's.")
    if checkpoint.architecture.arguments != recipe.model.model_dump() or checkpoint.edits:
        raise InputError(f"train.init '{recipe.train.init}' holds another network than the recipe's model section.")
    return rebuild(checkpoint)
