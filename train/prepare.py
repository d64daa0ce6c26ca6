"""What a run is made of before it starts: device, splits, tasks with their weights, the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from slimtask.architectures import build
from slimtask.checkpoint import Checkpoint
from slimtask.compress.rebuilding import rebuild
from slimtask.errors import InputError
from slimtask.tasks import Preprocessing, TaskSpec, select_tasks
from slimtask.train.data.config import DataConfig, open_dataset
from slimtask.train.data.dataset import TransformedDataset
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


@dataclass(frozen=True, kw_only=True)
class Data:
    """A recipe, its data at a network's size, and those of the network's tasks that it has targets for."""

    recipe: Recipe
    config: DataConfig
    tasks: tuple[TaskSpec, ...]
    size: Preprocessing

    def split(self, name: str) -> TransformedDataset:
        """Return the split "train" or "val"."""
        return open_dataset(self.config, name)


def data_for(checkpoint: Checkpoint, recipe: Recipe, *, targets: bool = True) -> Data:
    """Return the data of ``recipe`` for the network in ``checkpoint``, which takes one RGB image.

    With ``targets`` every task of the network needs targets; without, its images suffice, and ``tasks`` are those that
    happen to have some. Raises InputError where that is not so, or there are no images.
    """
    size = checkpoint.preprocessing
    if size is None:
        raise InputError("the network takes no single RGB image, so no recipe has data for it; tune it on batches.")
    sized = recipe.data.model_copy(update={"height": size.height, "width": size.width})
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
    return Data(recipe=recipe, config=sized.model_copy(update={"tasks": read}), tasks=fitting, size=size)


def device_of(accelerator: str) -> torch.device:
    """Return the device that a recipe's ``train.accelerator`` names; InputError if it is not there."""
    visible = torch.cuda.is_available()
    if accelerator == "cuda" and not visible:
        raise InputError("train.accelerator is cuda, but no CUDA device is visible; set it to auto or cpu.")
    return torch.device("cuda" if visible and accelerator != "cpu" else "cpu")
