"""The training loop: dense or sparse, early-stopped on validation, resumable to the same result."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from slimtask.architectures import build
from slimtask.checkpoint import Architecture, Checkpoint, json_safe
from slimtask.compress.rebuild import rebuild
from slimtask.errors import CheckFailed, InputError
from slimtask.files import refuse_existing, write_json, write_text
from slimtask.tasks import Preprocessing, TaskSpec, select_tasks
from slimtask.train.batches import Batches
from slimtask.train.data.config import open_dataset
from slimtask.train.data.protocol import MultiTaskDataset
from slimtask.train.evaluate import Evaluation, evaluate
from slimtask.train.history import History
from slimtask.train.losses import multi_task_loss
from slimtask.train.recipe import Recipe
from slimtask.train.sparsity.proximal_adamw import ProximalAdamW
from slimtask.train.sparsity.schedule import SparsitySchedule
from slimtask.train.state import flatten_optimizer, load_state, save_state, unflatten_optimizer

Progress = Callable[[int, int, str], None]
_LOG_EVERY = 20


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Where a finished run's checkpoint is, its scores on validation and test, and its sparsity."""

    checkpoint: Path
    validation: Evaluation
    test: Evaluation
    sparsity: dict[str, float]
    steps: int
    reached: bool


def train(
    recipe: Recipe,
    out: Path | str,
    *,
    resume: bool = False,
    fork: Path | str | None = None,
    fork_at: int | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train as ``recipe`` says and return the result; ``out`` gets checkpoint, metrics.jsonl, events, state, summary.

    ``resume`` continues a run that was stopped, to the same result as if it had not been. ``fork_at`` makes this run
    also write ``fork.safetensors`` at that step; another run starts from such a file with ``fork``: sparse runs of one
    recipe share their dense warm-up so. ``progress(step, steps, text)`` is called after every step.
    Raises InputError for bad input, CheckFailed if the training diverges.
    """
    trainer = Trainer(recipe, Path(out), resume=resume, fork=fork, fork_at=fork_at)
    return trainer.run(progress or (lambda step, steps, text: None))


class Trainer:
    """One run: model, optimiser, schedule and history, and where they stand."""

    def __init__(
        self, recipe: Recipe, out: Path, *, resume: bool, fork: Path | str | None = None, fork_at: int | None = None
    ) -> None:
        from lightning_fabric import Fabric

        self.recipe, self.out = recipe, out
        config = recipe.train
        if resume and not (out / "state.safetensors").exists():
            raise InputError(f"there is nothing to resume in '{out}'; leave --resume away to start a run.")
        if not resume:
            refuse_existing(out)
        self.train_set, self.val_set, self.test_set = open_splits(recipe)
        self.tasks = weighted(self.train_set.tasks, config.loss_weights)
        self.preprocessing = Preprocessing(height=recipe.data.height, width=recipe.data.width)
        torch.manual_seed(config.seed)
        self.arguments = recipe.model.model_dump()
        model = initial_model(recipe, self.tasks)
        self.schedule = None
        if recipe.sparsity is not None:
            example = torch.zeros(1, 3, recipe.data.height, recipe.data.width)
            self.schedule = SparsitySchedule.of(model, example, recipe.sparsity, config.steps)
        if config.accelerator == "cuda" and not torch.cuda.is_available():
            raise InputError("train.accelerator is cuda, but no CUDA device is visible; set it to auto or cpu.")
        self.fabric = Fabric(accelerator=config.accelerator, devices=1, precision=config.precision)
        layout = self.schedule.structure.layout if self.schedule else None
        self.optimizer = ProximalAdamW(parameter_groups(model, config.weight_decay), layout, lr=config.lr)
        self.model = model
        self.wrapped, self.wrapped_optimizer = self.fabric.setup(model, self.optimizer)
        self.batches = Batches(self.train_set, self.preprocessing, batch=config.batch, seed=config.seed)
        self.step, self.best, self.stale = 0, math.inf, 0
        self.best_weights: dict[str, Tensor] = {}
        self.fork_at = fork_at
        if resume:
            self._load(out / "state.safetensors")
        elif fork is not None:
            self._start_from(Path(fork))
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
        if not resume:
            self._save()  # so that a run killed before its first validation resumes too

    def run(self, progress: Progress) -> TrainResult:
        """Train to the end and return the result; on Ctrl-C the step is finished and the state saved first."""
        config, history = self.recipe.train, History(self.out, self.step)
        try:
            with interrupt_flag() as interrupted:
                while not self._done():
                    if self.step == self.fork_at:
                        self._save("fork.safetensors")
                    losses = self._step()
                    if self.step % _LOG_EVERY == 0:
                        history.record(self.step - 1, "train", losses | self._sparsity())
                    if self.step % config.eval_every == 0 or self.step == config.steps:
                        evaluation = self._evaluate(self.val_set)
                        history.record(self.step - 1, "val", {"loss": evaluation.loss, **evaluation.metrics})
                        self._select(evaluation.loss)
                        self._save()
                    progress(self.step, config.steps, f"loss {losses['loss']:.3f}")
                    if interrupted():
                        self._save()
                        raise KeyboardInterrupt
        finally:
            history.close()
        return self._finish()

    def _done(self) -> bool:
        """Return whether all steps are made or the validation loss has stalled for long enough."""
        patience = self.recipe.train.patience
        stalled = patience is not None and self.stale >= patience and self.step > (self.fork_at or 0)
        return self.step >= self.recipe.train.steps or stalled

    def _evaluate(self, dataset: MultiTaskDataset) -> Evaluation:
        return evaluate(self.model, dataset, self.preprocessing, tasks=self.tasks)

    def _step(self) -> dict[str, float]:
        images, targets = self.batches(self.step)
        images = images.to(self.fabric.device, memory_format=torch.channels_last)
        targets = {name: target.to(self.fabric.device) for name, target in targets.items()}
        rate = learning_rate(self.step, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.schedule:
            self.schedule.before(self.step, self.optimizer)
        self.model.train()
        self.optimizer.zero_grad()
        total, losses = multi_task_loss(self.wrapped(images), targets, self.tasks)
        value = float(total.detach())
        if not math.isfinite(value):
            raise CheckFailed(
                f"the training diverged: the loss is {value} at step {self.step}; lower train.lr and start anew."
            )
        self.fabric.backward(total)
        if self.recipe.train.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.train.clip_norm)
        self.wrapped_optimizer.step()
        if self.schedule:
            self.schedule.after(self.step, self.optimizer)
        self.step += 1
        return {"loss": value, **{f"loss/{name}": float(loss.detach()) for name, loss in losses.items()}, "lr": rate}

    def _select(self, loss: float) -> None:
        """Keep the weights with the lowest validation loss, once the sparsity is settled; count stale validations."""
        if self.schedule is not None and not self.schedule.settled:
            return
        if loss < self.best:
            self.best, self.stale = loss, 0
            self.best_weights = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        else:
            self.stale += 1

    def _sparsity(self) -> dict[str, Any]:
        return {"sparsity": self.schedule.report(self.optimizer)} if self.schedule else {}

    def _save(self, name: str = "state.safetensors") -> None:
        tensors, facts = self.schedule.state() if self.schedule else ({}, {})
        sections = {
            "model": self.model.state_dict(),
            "best": self.best_weights,
            "optimizer": flatten_optimizer(self.optimizer.state_dict()),
            "schedule": tensors,
        }
        known = {"step": self.step, "stale": self.stale, "best": self.best if math.isfinite(self.best) else None}
        save_state(self.out / name, sections, {**known, "schedule": facts})

    def _load(self, path: Path) -> None:
        sections, facts = load_state(path)
        written = yaml.safe_load((self.out / "recipe.yaml").read_text(encoding="utf-8"))
        if written != self.recipe.model_dump(mode="json"):
            raise InputError(f"'{self.out}' was started with another recipe; resume with the one in its recipe.yaml.")
        self.model.load_state_dict(sections["model"])
        flat = sections.get("optimizer", {})
        self.optimizer.load_state_dict(unflatten_optimizer(flat, self.optimizer.state_dict()["param_groups"]))
        if self.schedule:
            self.schedule.load_state(sections.get("schedule", {}), facts["schedule"], self.optimizer)
        self.best_weights = sections.get("best", {})
        self.step, self.stale = facts["step"], facts["stale"]
        self.best = math.inf if facts["best"] is None else facts["best"]

    def _start_from(self, path: Path) -> None:
        """Take over model, moments and step of another run's fork, whose optimiser knew no groups."""
        sections, facts = load_state(path)
        if self.schedule and facts["step"] > self.schedule.warm_up:
            raise InputError(f"the fork '{path}' is past the dense warm-up of this recipe; fork earlier.")
        self.model.load_state_dict(sections["model"])
        flat = {key: tensor for key, tensor in sections.get("optimizer", {}).items() if key.startswith("state/")}
        self.optimizer.load_state_dict(unflatten_optimizer(flat, self.optimizer.state_dict()["param_groups"]))
        self.step = facts["step"]

    def _finish(self) -> TrainResult:
        if self.best_weights:
            self.model.load_state_dict(self.best_weights)
        sparsity = self.schedule.report(self.optimizer) if self.schedule else {}
        reached = self.schedule is None or self.schedule.reached
        validation, test = self._evaluate(self.val_set), self._evaluate(self.test_set)
        summary = {
            "steps": self.step,
            "sparsity": sparsity,
            "target_reached": reached,
            "validation": finite(validation.metrics),
            "test": finite(test.metrics),
        }
        path = self.out / "checkpoint.safetensors"
        Checkpoint(
            weights=self.model.state_dict(),
            architecture=Architecture(name="multitask-net", arguments=self.arguments),
            tasks=self.tasks,
            preprocessing=self.preprocessing,
            provenance=json_safe({"recipe": self.recipe.model_dump(mode="json"), **summary}),
        ).save(path)
        write_json(self.out / "summary.json", summary)
        return TrainResult(
            checkpoint=path, validation=validation, test=test, sparsity=sparsity, steps=self.step, reached=reached
        )


def open_splits(recipe: Recipe) -> tuple[MultiTaskDataset, MultiTaskDataset, MultiTaskDataset]:
    """Return the train, val and test split, opened before anything is trained; InputError if one is empty."""
    splits = []
    for name in ("train", "val", "test"):
        split = open_dataset(recipe.data, name)
        if len(split) == 0:
            raise InputError(f"the {name} split of '{recipe.data.name}' is empty; give it more images.")
        splits.append(split)
    return splits[0], splits[1], splits[2]


@contextmanager
def interrupt_flag() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether Ctrl-C was pressed; a second Ctrl-C stops at once, with nothing saved."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)


def weighted(tasks: tuple[TaskSpec, ...], weights: dict[str, float]) -> tuple[TaskSpec, ...]:
    """Return the tasks with their loss weights replaced; InputError for a task that is not there."""
    select_tasks(tasks, weights)
    return tuple(task.model_copy(update={"weight": weights.get(task.name, task.weight)}) for task in tasks)


def initial_model(recipe: Recipe, tasks: tuple[TaskSpec, ...]) -> nn.Module:
    """Return the recipe's network, freshly initialised or with the weights of the checkpoint ``train.init``."""
    import slimtask.train.models  # noqa: F401  registers the architectures

    if recipe.train.init is None:
        fresh: nn.Module = build("multitask-net", recipe.model.model_dump(), tasks)
        return fresh
    checkpoint = Checkpoint.load(recipe.train.init)
    kinds = [[(task.name, task.kind, task.channels) for task in some] for some in (checkpoint.tasks, tasks)]
    if kinds[0] != kinds[1]:
        raise InputError(f"train.init '{recipe.train.init}' was trained for other tasks than the recipe's.")
    if checkpoint.architecture.arguments != recipe.model.model_dump() or checkpoint.edits:
        raise InputError(f"train.init '{recipe.train.init}' holds another network than the recipe's model section.")
    return rebuild(checkpoint)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return named parameter groups: weight decay for matrices and filters, none for biases and BatchNorm."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [
        {"params": [(name, p) for name, p in named if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [(name, p) for name, p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]


def learning_rate(step: int, recipe: Recipe) -> float:
    """Return the learning rate of ``step``: linear warm-up, then a half cosine to 2 % of the recipe's rate."""
    config = recipe.train
    rising = config.lr_warmup * config.steps
    if step < rising:
        return config.lr * (step + 1) / (rising + 1)
    progress = (step - rising) / max(1, config.steps - rising)
    return config.lr * (0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2)


def finite(metrics: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Return the metrics with None for what is not a finite number, as JSON wants it."""
    return {
        task: {name: value if math.isfinite(value) else None for name, value in values.items()}
        for task, values in metrics.items()
    }
