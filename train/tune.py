"""Training a network on after a cut, with the one before it for teacher, and scores of every stage on validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor, nn

from slimtask.checkpoint import Checkpoint, json_safe
from slimtask.compress.edits.tasks import Selected
from slimtask.compress.network.by_task import TaskOutputs, by_task
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.tuning import batchnorms, finetune, output_distance, recalibrate_batchnorm, zeros_held
from slimtask.errors import InputError
from slimtask.train.batches import Batches, in_order
from slimtask.train.evaluate import evaluate, finite
from slimtask.train.losses import multi_task_loss
from slimtask.train.prepare import Data, device_of
from slimtask.train.recipe import TrainConfig

Shown = Callable[[str], AbstractContextManager[Any]]
"""Shows a text while work goes on; what a bar enters to takes ``(step, steps, text)``, None for none."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How good the network was: dense, cut or tuned in a round (of a task: given, own mask, tuned), on validation.

    ``distance`` is the mean squared distance to the outputs of the first stage, relative to their mean square. ``loss``
    and ``metrics`` are those of the tasks that the data have targets for.
    """

    stage: str
    round: int
    distance: float
    loss: float | None
    metrics: dict[str, dict[str, float | None]]


def _silent(text: str) -> AbstractContextManager[None]:
    return nullcontext()


class Tuner:
    """Trains a cut network on, with the network as it was given for teacher, and keeps the scores in ``stages``.

    Batch, seed, device and, unless ``lr`` says it, Adam's rate are those of the recipe of ``data``. ``finetune`` steps
    follow every one of ``rounds`` cuts; ``distil`` is the share of the loss that is the distance to the dense outputs;
    ``recalibrate`` batches give BatchNorm its statistics anew at the end. ``factory`` makes a network that is not
    slimtask's. Raises InputError where there is no BatchNorm to recalibrate, or the recipe's device is not there.
    ``for_tasks`` returns one for the network of some tasks under masks of their own.

    Example::

        tuner = Tuner(dense, data_for(dense, load_recipe("scenes")), finetune=500, distil=0.5, rounds=3)
        smaller, cuts = compress_in_rounds(dense, Prune(Budget(flops=0.4)), rounds=3, between=tuner)
        print(tuner.stages)
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        data: Data,
        *,
        finetune: int | None = None,
        distil: float | None = None,
        lr: float | None = None,
        recalibrate: int | None = None,
        rounds: int = 1,
        factory: Callable[[], nn.Module] | None = None,
        working: Shown = _silent,
        progress_bar: Shown = _silent,
    ) -> None:
        config = data.recipe.train
        self.data, self.factory, self.known = data, factory, checkpoint.tasks
        self.steps, self.distil, self.recalibrate, self.rounds = finetune or 0, distil, recalibrate, rounds
        self.lr = lr or _adams_rate(config)
        self.working, self.progress_bar = working, progress_bar
        self.stages, self.masked = list[Stage](), False
        self.val = data.split("val")
        self.device = device_of(config.accelerator)
        self.dense = rebuild(checkpoint, factory).to(self.device)
        if recalibrate is not None and not batchnorms(self.dense):
            raise InputError("the network has no BatchNorm with running statistics; leave out the recalibration.")
        self.batches = Batches(data.split("train"), data.size, batch=config.batch, seed=config.seed)

    def __call__(self, checkpoint: Checkpoint, number: int) -> Checkpoint:
        """Return the checkpoint of a network cut in round ``number``, trained on; its provenance tells how."""
        if not self.stages:
            self.score("dense", 0, self.dense)
        model = rebuild(checkpoint, self.factory).to(self.device)
        self.score("cut", number, model)
        training, tuned = self.train_(model, number)
        facts = dict(checkpoint.provenance)
        *earlier, last = facts["compressed"]
        facts |= {"compressed": [*earlier, {**last, "training": training}], "validation": tuned.metrics}
        weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        return checkpoint.with_changes(weights=weights, provenance=json_safe(facts))

    def for_tasks(self, tasks: Sequence[str]) -> Tuner:
        """Return the tuner of the network of ``tasks`` alone, whose zeros are masked: they stay."""
        own = copy(self)
        own.stages, own.masked = [], True
        own.dense = Selected(self.dense, tasks).eval()
        own.known = tuple(task for task in self.known if task.name in tasks)
        own.data = replace(self.data, tasks=tuple(task for task in self.data.tasks if task.name in tasks))
        own.score("given", 0, own.dense)
        return own

    def train_(self, model: nn.Module, number: int) -> tuple[dict[str, Any], Stage]:
        """Train ``model`` in place, after the cut of round ``number``; return the facts of it, and its score."""
        facts = self._finetune(model, number) | self._recalibrate(model)
        facts |= {"data": self.data.config.model_dump(mode="json"), "seed": self.batches.seed}
        return facts, self.score("tuned", number, model)

    def score(self, name: str, number: int, model: nn.Module) -> Stage:
        """Return, and keep, how good ``model`` is on the validation split."""
        tasks, size = self.data.tasks, self.data.size
        with self.working(f"scoring the {name} network"):
            distance = 0.0 if model is self.dense else self._distance(model)
            scores = evaluate(TaskOutputs(model, self.known).eval(), self.val, size, tasks=tasks) if tasks else None
        stage = Stage(
            stage=name,
            round=number,
            distance=distance,
            loss=None if scores is None else scores.loss,
            metrics={} if scores is None else finite(scores.metrics),
        )
        self.stages.append(stage)
        return stage

    def _finetune(self, model: nn.Module, number: int) -> dict[str, Any]:
        """Train in place and return the facts of it."""
        if not self.steps:
            return {}
        share = self.distil or 0.0
        label = "training" if self.rounds == 1 else f"training, round {number} of {self.rounds}"
        label = f"{label} for {', '.join(task.name for task in self.known)}" if self.masked else label
        with self.progress_bar(label) as report, zeros_held(model) if self.masked else nullcontext():
            history = finetune(
                model,
                self._from((number - 1) * self.steps),
                steps=self.steps,
                lr=self.lr,
                loss=self._loss if share < 1 else None,
                teacher=None if self.distil is None else self.dense,
                alpha=share,
                progress=report,
            )
        return {
            "steps": self.steps, "lr": self.lr, "batch": self.batches.batch, "distil": share,
            "first_loss": history[0], "last_loss": history[-1],
        }  # fmt: skip

    def _recalibrate(self, model: nn.Module) -> dict[str, Any]:
        """Estimate BatchNorm statistics anew in place and return the facts of it."""
        if self.recalibrate is None:
            return {}
        with self.working("recalibrating BatchNorm"):
            seen = recalibrate_batchnorm(model, islice(self._from(0), self.recalibrate))
        return {"recalibrated_batches": seen, "batch": self.batches.batch}

    def _from(self, start: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield training batches without end, from step ``start`` on: a function of the seed and the step."""
        for step in count(start):
            yield self._moved(*self.batches(step))

    def _moved(self, images: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return images.to(self.device), {name: target.to(self.device) for name, target in targets.items()}

    def _loss(self, outputs: Any, batch: Any) -> Tensor:
        return multi_task_loss(by_task(outputs, self.data.tasks), batch[1], self.data.tasks)[0]

    @torch.no_grad()
    def _distance(self, model: nn.Module) -> float:
        total = 0.0
        for images, targets in in_order(self.val, self.data.size, self.batches.batch):
            x, _ = self._moved(images, targets)
            total += float(output_distance(model(x), self.dense(x))) * len(x)
        return total / len(self.val)


def _adams_rate(config: TrainConfig) -> float:
    """Return the learning rate of a recipe, or the recipes' default one where its own is not Adam's."""
    return 1e-3 if config.optimizer == "sgd" else config.lr
