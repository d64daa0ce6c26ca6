"""What a way of training adds to the loop. The plain one, here, adds nothing: it is the dense baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slimtask.tasks import Preprocessing, TaskSpec
from slimtask.train.batches import Batch, Batches
from slimtask.train.data.protocol import MultiTaskDataset
from slimtask.train.losses import task_loss
from slimtask.train.optimizers import build_optimizer, set_rate
from slimtask.train.recipe import Recipe
from slimtask.train.weighting import FixedWeights, weighting_of

Forward = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a method is made of: the recipe, the network it names, the tasks with their weights, the training images."""

    recipe: Recipe
    model: nn.Module
    tasks: tuple[TaskSpec, ...]
    train_set: MultiTaskDataset
    preprocessing: Preprocessing

    def batches(self, dataset: MultiTaskDataset | None = None) -> Batches:
        """Return the recipe's batches of ``dataset``, the training split if None."""
        config = self.recipe.train
        return Batches(
            dataset or self.train_set,
            self.preprocessing,
            batch=config.batch,
            seed=config.seed,
            accumulate=config.accumulate,
        )

    def example(self) -> Tensor:
        """Return zeros [1, 3, height, width]."""
        return torch.zeros(1, 3, self.preprocessing.height, self.preprocessing.width)


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a finished run learned: its network with the edits that lead to it, and facts for summary and provenance.

    ``notes`` are sentences that a user must see.
    """

    model: nn.Module
    edits: tuple[dict[str, Any], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Method:
    """Plain training of all weights; the base of the methods, which override what they do differently.

    ``network`` is trained (it may wrap the recipe's model), ``tasks`` are those still learned (see
    ``train.task_patience``). In every step the loop calls ``before``, then ``loss`` for each part of the batch, and
    after the backward passes the optimiser that ``before`` returned, then ``after``.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup, self.recipe = setup, setup.recipe
        self.tasks = setup.tasks
        self.network: nn.Module = setup.model
        self.weighting: FixedWeights = weighting_of(setup.recipe.train.weighting, setup.tasks)
        self.optimizer = self.make_optimizer()
        self._batches = setup.batches()

    def make_optimizer(self) -> Optimizer:
        """Return the optimiser of the weights."""
        return build_optimizer([self.network, self.weighting], self.recipe.train)

    @property
    def clipped(self) -> Iterable[nn.Parameter]:
        """Return the parameters whose common gradient norm ``train.clip_norm`` limits: the network's."""
        return self.network.parameters()

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """Return all optimisers, that of the weights first."""
        return (self.optimizer,)

    @property
    def evaluated(self) -> nn.Module:
        """Return the network whose validation decides which weights are kept."""
        return self.network

    @property
    def settled(self) -> bool:
        """Return whether selection and early stopping may begin: the sparse structure is final."""
        return True

    @property
    def reached(self) -> bool:
        """Return whether the run came to the sparsity it was asked for."""
        return True

    def prepare(self) -> None:
        """Do what comes once before the first step of a new run, on the device that trains."""

    def batch(self, step: int, part: int = 0) -> Batch:
        """Return images and targets of part ``part`` (of ``train.accumulate``) of the batch of ``step``."""
        return self._batches(step, part)

    def before(self, step: int, rate: float) -> Optimizer:
        """Prepare ``step`` and return the optimiser that makes it, with learning rate ``rate``."""
        set_rate(self.optimizer, rate)
        return self.optimizer

    def loss(self, forward: Forward, images: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss to descend, and the unweighted losses of the tasks by name."""
        predictions = forward(images)
        losses = {task.name: task_loss(predictions[task.name].float(), targets[task.name], task) for task in self.tasks}
        return self.weighting(losses), losses

    def after(self, step: int) -> None:
        """Do what follows the optimiser's step."""

    def report(self) -> dict[str, float]:
        """Return the figures of the sparse structure now, for the log."""
        return {}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what resuming needs beside network and optimisers: tensors, and JSON facts."""
        return {}, {}

    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Continue from what ``state`` returned; network and optimisers are loaded already."""

    def check_fork(self, path: Path, step: int) -> None:
        """Raise InputError if this method cannot go on from the dense run that was forked at ``step`` to ``path``."""

    def finish(self, out: Path) -> Learned:
        """Return what was learned, the kept weights being in the network; further files go to the folder ``out``."""
        return Learned(model=self.network)
