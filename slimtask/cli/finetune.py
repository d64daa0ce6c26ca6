"""What `slimtask compress` does after a cut by score: train on, recalibrate BatchNorm, and tell what that was worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import asdict, dataclass, replace
from itertools import count, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimtask.cli.calibration import Data, open_data
from slimtask.cli.common import Patient, console, progress_bar, table, working
from slimtask.cli.network import Network
from slimtask.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from slimtask.checkpoint import Checkpoint
    from slimtask.train.recipe import TrainConfig

RecalibrateOption = Annotated[
    int | None,
    typer.Option("--recalibrate", metavar="BATCHES", help="After the cut: BatchNorm statistics from training images."),
]
FinetuneOption = Annotated[
    int | None, typer.Option("--finetune", metavar="STEPS", help="After the cut: train on by the tasks' losses.")
]
DistilOption = Annotated[
    float | None,
    typer.Option(
        "--distil",
        metavar="SHARE",
        help="With --finetune: share of the loss that is the distance to the dense outputs; 1 needs no targets.",
    ),
]
RateOption = Annotated[
    float | None, typer.Option("--lr", help="With --finetune: Adam's learning rate; else the recipe's.")
]
RoundsOption = Annotated[
    int | None, typer.Option("--rounds", help="With --finetune: cut in so many rounds, STEPS of training after each.")
]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user asked for after a cut."""

    recalibrate: int | None
    finetune: int | None
    distil: float | None
    lr: float | None
    rounds: int | None

    @property
    def first(self) -> str | None:
        """Return the first option that was given, None if none was."""
        return next((f"--{name}" for name, value in asdict(self).items() if value is not None), None)

    def check(self, *, budgeted: bool, measured: bool, masked: bool) -> None:
        """Raise InputError unless the options go together, with what they mend.

        That is a cut by score (``measured``: off a latency table), or masks of each task's own (``masked``).
        """
        if self.first is not None and not budgeted and not masked:
            raise InputError(
                f"{self.first} mends what a budget or a task's own mask takes, and removing zeros or what no task "
                "needs is exact; add --keep, --params, --flops, --latency-ms, or --masks with --per-task, or leave it "
                "out."
            )
        least = {"finetune": 0 if masked else 1}
        for name, most in (("recalibrate", 10**6), ("finetune", 10**9), ("rounds", 1000)):
            value = getattr(self, name)
            if value is not None and not least.get(name, 1) <= value <= most:
                raise InputError(
                    f"--{name} takes a count from {least.get(name, 1)} to {most:,}, not {str(value)[:20]}."
                )
        for name in ("distil", "lr", "rounds"):
            if getattr(self, name) is not None and self.finetune is None:
                raise InputError(f"--{name} says how to train after a cut; add --finetune STEPS.")
        if self.distil is not None and not 0 < self.distil <= 1:
            raise InputError(f"--distil takes a share of the loss above 0 and up to 1, not {self.distil:g}.")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise InputError(f"--lr takes a learning rate above 0, such as 0.001, not {self.lr:g}.")
        if masked and self.rounds is not None:
            raise InputError("--rounds cuts to shares of a budget, and a mask takes all at once; leave it out.")
        if measured and (self.rounds or 1) > 1:
            raise InputError(
                "--rounds cuts to shares of --keep, --params or --flops with a number for --align; counts off a "
                "measured table are chosen all at once, so leave it out."
            )

    def tuner(self, network: Network, recipe: Path | None) -> Tuner | None:
        """Return what trains after each cut, with the data of ``recipe``; None if nothing was asked for."""
        if self.first is None:
            return None
        tuner = Tuner(network, self, recipe)
        tuner.score("dense", 0, tuner.dense)
        return tuner


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


class Tuner:
    """Trains a cut network on, as the user wants, with the network as it was given for teacher, and keeps scores.

    ``for_tasks`` returns one for the network of some tasks under masks of their own.
    """

    def __init__(self, network: Network, wanted: Wanted, recipe: Path | None) -> None:
        from slimtask.compress.finetune import batchnorms
        from slimtask.train.batches import Batches

        self.network, self.wanted, self.stages = network, wanted, list[Stage]()
        self.known, self.masked = network.checkpoint.tasks, False
        own_loss = bool(wanted.finetune) and (wanted.distil or 0) < 1
        what = "--finetune" if wanted.finetune is not None else "--recalibrate"
        instead = "or --distil 1, which needs images only" if own_loss else "or leave it out"
        with working("reading training data"):
            self.data: Data = open_data(network.checkpoint, recipe, what, instead, targets=own_loss)
            self.train, self.val = self.data.split("train"), self.data.split("val")
        config = self.data.recipe.train
        self.own_loss, self.lr = own_loss, wanted.lr or _adams_rate(config)
        self.device = _device(config.accelerator)
        self.dense = network.rebuild().to(self.device)
        if wanted.recalibrate is not None and not batchnorms(self.dense):
            raise InputError("the network has no BatchNorm with running statistics; leave out --recalibrate.")
        self.batches = Batches(self.train, self.data.size, batch=config.batch, seed=config.seed)

    @property
    def rounds(self) -> int:
        """Return in how many rounds the network is cut."""
        return self.wanted.rounds or 1

    def __call__(self, checkpoint: Checkpoint, number: int) -> Checkpoint:
        """Return the checkpoint of a network cut in round ``number``, trained on; its provenance tells how."""
        from slimtask.checkpoint import json_safe
        from slimtask.compress.rebuild import rebuild

        model = rebuild(checkpoint, self.network.factory).to(self.device)
        self.score("cut", number, model)
        told, tuned = self.train_(model, number)
        facts = dict(checkpoint.provenance)
        *earlier, last = facts["compressed"]
        facts |= {"compressed": [*earlier, {**last, "training": told}], "validation": tuned.metrics}
        weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
        return checkpoint.with_changes(weights=weights, provenance=json_safe(facts))

    def for_tasks(self, tasks: Sequence[str]) -> Tuner:
        """Return the tuner of the network of ``tasks`` alone, whose zeros are masked: they stay."""
        from slimtask.compress.task_outputs import Selected

        own = copy(self)
        own.stages, own.masked = [], True
        own.dense = Selected(self.dense, tasks).eval()
        own.known = tuple(task for task in self.known if task.name in tasks)
        own.data = replace(self.data, tasks=tuple(task for task in self.data.tasks if task.name in tasks))
        own.score("given", 0, own.dense)
        return own

    def train_(self, model: nn.Module, number: int) -> tuple[dict[str, Any], Stage]:
        """Train ``model`` in place, after the cut of round ``number``; return what is to be told, and its score."""
        told = self._finetune(model, number) | self._recalibrate(model)
        told |= {"data": self.data.config.model_dump(mode="json"), "seed": self.batches.seed}
        return told, self.score("tuned", number, model)

    def show(self) -> list[dict[str, Any]]:
        """Print how good every stage was (of more than three rounds the last one's), and return all as JSON."""
        shown = [stage for stage in self.stages if self.rounds <= 3 or stage.round in (0, self.rounds)]
        names = [
            stage.stage if self.rounds == 1 or not stage.round else f"{stage.stage} {stage.round}" for stage in shown
        ]
        rows = table("Quality on the validation split", "", "better", *names)
        rows.add_row("distance to dense", "lower", *(f"{stage.distance:.4f}" for stage in shown))
        for task in self.data.tasks:
            scores = [stage.metrics[task.name][task.metric] for stage in shown]
            better = "higher" if task.higher_is_better else "lower"
            rows.add_row(f"{task.name} {task.metric}", better, *("-" if x is None else f"{x:.4f}" for x in scores))
        console.print(rows)
        for sentence in self.worse():
            console.print(sentence, markup=False, highlight=False, soft_wrap=True)
        return [asdict(stage) for stage in self.stages]

    def worse(self) -> list[str]:
        """Return a sentence for every round whose training took the network further away, or to a worse loss."""
        told = []
        for before, after in pairwise(self.stages):
            if after.stage != "tuned":
                continue
            rises = [("distance to the outputs it learns from", before.distance, after.distance)]
            if before.loss is not None and after.loss is not None:
                rises.append(("validation loss", before.loss, after.loss))
            worse = [f"{what} rose from {old:.4g} to {new:.4g}" for what, old, new in rises if new > old]
            if worse:
                where = f" in round {after.round}" if self.rounds > 1 else ""
                told.append(
                    f"tuning made it worse{where}: the {' and the '.join(worse)}; take more steps, a smaller --lr or "
                    "another --distil, or leave the tuning out."
                )
        return told

    def _finetune(self, model: nn.Module, number: int) -> dict[str, Any]:
        """Train in place and return what is to be told of it."""
        from slimtask.compress.finetune import finetune, zeros_held

        if not self.wanted.finetune:
            return {}
        steps, share = self.wanted.finetune, self.wanted.distil
        label = "training" if self.rounds == 1 else f"training, round {number} of {self.rounds}"
        label = f"{label} for {', '.join(task.name for task in self.known)}" if self.masked else label
        with progress_bar(label) as report, zeros_held(model) if self.masked else nullcontext():
            history = finetune(
                model,
                self._from((number - 1) * steps),
                steps=steps,
                lr=self.lr,
                loss=self._loss if self.own_loss else None,
                teacher=None if share is None else self.dense,
                alpha=share or 0.0,
                progress=report,
            )
        return {
            "steps": steps, "lr": self.lr, "batch": self.batches.batch, "distil": share or 0.0,
            "first_loss": history[0], "last_loss": history[-1],
        }  # fmt: skip

    def _recalibrate(self, model: nn.Module) -> dict[str, Any]:
        """Estimate BatchNorm statistics anew in place and return what is to be told of it."""
        from slimtask.compress.finetune import recalibrate_batchnorm

        if self.wanted.recalibrate is None:
            return {}
        with working("recalibrating BatchNorm"):
            seen = recalibrate_batchnorm(model, islice(self._from(0), self.wanted.recalibrate))
        return {"recalibrated_batches": seen, "batch": self.batches.batch}

    def _from(self, start: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield training batches without end, from step ``start`` on: a function of the seed and the step."""
        for step in count(start):
            yield self._moved(*self.batches(step))

    def _moved(self, images: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return images.to(self.device), {name: target.to(self.device) for name, target in targets.items()}

    def _loss(self, outputs: Any, batch: Any) -> Tensor:
        from slimtask.compress.foreign import by_task
        from slimtask.train.losses import multi_task_loss

        return multi_task_loss(by_task(outputs, self.data.tasks), batch[1], self.data.tasks)[0]

    def score(self, name: str, number: int, model: nn.Module) -> Stage:
        """Return, and keep, how good ``model`` is on the validation split."""
        from slimtask.compress.foreign import TaskOutputs
        from slimtask.train.evaluate import evaluate, finite

        tasks, size, known = self.data.tasks, self.data.size, self.known
        with working(f"scoring the {name} network"):
            distance = 0.0 if model is self.dense else self._distance(model)
            scores = evaluate(TaskOutputs(model, known).eval(), self.val, size, tasks=tasks) if tasks else None
        stage = Stage(
            stage=name,
            round=number,
            distance=distance,
            loss=None if scores is None else scores.loss,
            metrics={} if scores is None else finite(scores.metrics),
        )
        self.stages.append(stage)
        return stage

    def _distance(self, model: nn.Module) -> float:
        import torch

        from slimtask.compress.finetune import output_distance
        from slimtask.train.batches import in_order

        total = 0.0
        with torch.no_grad():
            for images, targets in in_order(self.val, self.data.size, self.batches.batch):
                x, _ = self._moved(images, targets)
                total += float(output_distance(model(x), self.dense(x))) * len(x)
        return total / len(self.val)


def cut_in_rounds(tuner: Tuner, cut: Callable[..., Any]) -> Any:
    """Return ``cut(between=...)`` with the tuner between the rounds, and a sign of life on standard error meanwhile."""
    with Patient(stderr=True).status("finding what may go, removing it, proving it") as status:

        def between(checkpoint: Checkpoint, number: int) -> Checkpoint:
            status.stop()  # the training has a bar of its own
            try:
                return tuner(checkpoint, number)
            finally:
                status.start()

        return cut(between=between)


def show_training(provenance: dict[str, Any]) -> None:
    """Print how the network was trained on after its cuts, or under a task's own masks, as a checkpoint tells it."""
    steps = provenance.get("compressed")
    for step in steps if isinstance(steps, list) else []:
        if isinstance(step, dict):
            number = f" round {step['round']} of {step['rounds']}" if {"round", "rounds"} <= set(step) else ""
            _show_facts(f"after the cut{number}", step.get("training"))
    _show_facts("under masks of its own", provenance.get("training"))


def _show_facts(when: str, told: object) -> None:
    if isinstance(told, dict):
        facts = {name: value for name, value in told.items() if name != "data"}
        words = ", ".join(f"{name} {x:.4g}" if isinstance(x, float) else f"{name} {x}" for name, x in facts.items())
        console.print(f"trained on {when}: {words}", markup=False, highlight=False)


def _adams_rate(config: TrainConfig) -> float:
    """Return the learning rate of a recipe, or the recipes' default one where its own is not Adam's."""
    return 1e-3 if config.optimizer == "sgd" else config.lr


def _device(accelerator: str) -> torch.device:
    """Return the device that a recipe's ``train.accelerator`` names, as training does."""
    import torch

    visible = torch.cuda.is_available()
    if accelerator == "cuda" and not visible:
        raise InputError("train.accelerator is cuda, but no CUDA device is visible; set it to auto or cpu.")
    return torch.device("cuda" if visible and accelerator != "cpu" else "cpu")
