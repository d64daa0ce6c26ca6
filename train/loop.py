"""The training loop: any method, early-stopped on validation, resumable to the same result, in one process or many."""

from __future__ import annotations

import atexit
import math
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from slimtask.checkpoint import Architecture, Checkpoint, json_safe
from slimtask.errors import CheckFailed, InputError
from slimtask.files import make_folder, refuse_existing, write_json, write_text
from slimtask.tasks import Preprocessing
from slimtask.train import parallel
from slimtask.train.data.protocol import MultiTaskDataset
from slimtask.train.evaluate import Evaluation, evaluate, finite
from slimtask.train.forks import check_fork_fits
from slimtask.train.history import History
from slimtask.train.interrupt import interrupt_flag
from slimtask.train.methods.base import Method, Setup
from slimtask.train.optimizers import LearningRate, flat_state, load_flat_state, restart
from slimtask.train.prepare import chosen_tasks, device_of, initial_model, open_splits
from slimtask.train.recipe import Recipe, TrainConfig, load_recipe
from slimtask.train.selection import Selection
from slimtask.train.state import load_state, save_state

Progress = Callable[[int, int, str], None]
_LOG_EVERY = 20


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Where a finished run's checkpoint is, its scores on validation and test, its sparsity, and notes on it.

    Examples:
        >>> from slimtask.train import load_recipe, train
        >>> small = ["model.width=0.125", "data.tasks=[depth]", "data.height=32", "data.width=32"]
        >>> short = ["train.steps=1", "train.batch=2", "data.train=2", "data.val=1", "data.test=1"]
        >>> result = train(load_recipe("scenes/dense", small + short), "run")
        >>> result.checkpoint.name, result.steps, "abs_rel" in result.test.metrics["depth"]
        ('checkpoint.safetensors', 1, True)
    """

    checkpoint: Path
    validation: Evaluation
    test: Evaluation
    sparsity: dict[str, float]
    steps: int
    reached: bool
    notes: tuple[str, ...] = ()


class Trainer:
    """One run: the method with its network and optimisers, data and selection, and where they stand."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        method: type[Method],
        *,
        resume: bool,
        fork: Path | str | None = None,
        fork_at: int | None = None,
    ) -> None:
        self.recipe, self.out, self.fork_at = recipe, out, fork_at
        config, fresh = recipe.train, not resume
        if fresh:
            refuse_existing(out)
        resume = resume and has_state(recipe, out)
        self.fabric = launch(config)
        parallel.meet()  # all have looked whether ``out`` is there before the first one makes it
        self.train_set, self.val_set, self.test_set = open_splits(recipe)
        self.tasks = chosen_tasks(self.train_set.tasks, config)
        self.preprocessing = Preprocessing(height=recipe.data.height, width=recipe.data.width)
        torch.manual_seed(config.seed)
        self.method = method(
            Setup(
                recipe=recipe,
                model=initial_model(recipe, self.tasks),
                tasks=self.tasks,
                train_set=self.train_set,
                preprocessing=self.preprocessing,
            )
        )
        self._place()
        self.rate, self.selection = LearningRate(config), Selection(config.patience, config.task_patience)
        self.step = 0
        if resume:
            self._load(out / "state.safetensors")
        else:
            self.method.prepare()
            if fork is not None:
                self._start_from(Path(fork))
        if parallel.rank() == 0:
            make_folder(out, new=fresh)
            write_text(out / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
        if not resume:
            self._save()  # so that a run killed before its first validation resumes too

    @property
    def network(self) -> nn.Module:
        """Return the network that is trained."""
        return self.method.network

    def _place(self) -> None:
        """Bring network and optimisers to the device, wrapped for precision and for several processes."""
        if parallel.processes() > 1:
            parallel.share_batchnorm_(self.network)
        self._forward = self.fabric.setup_module(self.network)
        self.method.weighting.to(self.fabric.device)
        self._steppers = {id(one): self.fabric.setup_optimizers(one) for one in self.method.optimizers}

    def run(self, progress: Progress) -> TrainResult:
        """Train to the end and return the result; on Ctrl-C the step is finished and the state saved first."""
        config, history = self.recipe.train, History(self.out, self.step, write=parallel.rank() == 0)
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
                        self._select(evaluation)
                        self._save()
                    progress(self.step, config.steps, f"loss {losses['loss']:.3f}")
                    if parallel.anywhere(interrupted()):
                        self._save()
                        raise KeyboardInterrupt
        finally:
            history.close()
        return self._finish()

    def _done(self) -> bool:
        """Return whether all steps are made or validation has stalled for long enough."""
        stalled = self.selection.exhausted and self.step > (self.fork_at or 0)
        return self.step >= self.recipe.train.steps or stalled

    def _evaluate(self, dataset: MultiTaskDataset) -> Evaluation:
        return self._scored(self.method.evaluated, dataset)

    def _scored(self, network: nn.Module, dataset: MultiTaskDataset) -> Evaluation:
        return evaluate(network, dataset, self.preprocessing, tasks=self.tasks, extra=self.recipe.train.metrics)

    def _step(self) -> dict[str, float]:
        config, method = self.recipe.train, self.method
        rate = self.rate(self.step)
        if config.rebuild_every is not None and self.step % config.rebuild_every == 0:
            for one in method.optimizers:
                restart(one)
        optimizer = method.before(self.step, rate)
        self._train_mode()
        for one in method.optimizers:
            one.zero_grad()
        sums: dict[str, Tensor] = {}
        for part in range(config.accumulate):
            for name, loss in self._backward(part).items():
                sums[name] = sums.get(name, torch.zeros_like(loss)) + loss / config.accumulate
        parallel.average_gradients(method.weighting)
        values = {name: float(value) for name, value in parallel.averaged(sums).items()}
        if not math.isfinite(values["loss"]):
            raise CheckFailed(
                f"the training diverged: the loss is {values['loss']} at step {self.step}; lower train.lr and start "
                "anew."
            )
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(method.clipped, config.clip_norm)
        self._steppers[id(optimizer)].step()
        method.after(self.step)
        self.step += 1
        return values | {"lr": rate}

    def _backward(self, part: int) -> dict[str, Tensor]:
        """Add up the gradients of one part of the batch and return its losses."""
        config, device = self.recipe.train, self.fabric.device
        host_images, host_targets = self.method.batch(self.step, part)
        images = host_images.to(device, memory_format=torch.channels_last)
        targets = {name: target.to(device) for name, target in host_targets.items()}
        waits = parallel.processes() > 1 and part < config.accumulate - 1
        with self.fabric.no_backward_sync(self._forward) if waits else nullcontext():
            total, losses = self.method.loss(self._forward, images, targets)
            self.fabric.backward(total / config.accumulate)
        return {"loss": total.detach(), **{f"loss/{name}": loss.detach() for name, loss in losses.items()}}

    def _select(self, evaluation: Evaluation) -> None:
        """Let a validation decide about learning rate, and once the sparsity is settled about weights and tasks."""
        self.rate.observe(evaluation.loss)
        if not self.method.settled or self.step < self.recipe.train.window:
            return
        self.selection.observe(evaluation.score, evaluation.losses, self.network)
        self._freeze(self.selection.stalled)

    def _freeze(self, stalled: tuple[str, ...]) -> None:
        """Train the heads of ``stalled`` tasks no further, and leave their losses out; not before the fork, if any."""
        if self.fork_at is not None and self.step <= self.fork_at:
            return
        self.method.tasks = tuple(task for task in self.tasks if task.name not in stalled)
        for head in self._frozen_heads():
            head.requires_grad_(requires_grad=False)

    def _frozen_heads(self) -> list[nn.Module]:
        """Return the heads of the tasks that are learned no further."""
        heads, learned = getattr(self.method.setup.model, "heads", {}), {task.name for task in self.method.tasks}
        return [heads[task.name] for task in self.tasks if task.name in heads and task.name not in learned]

    def _train_mode(self) -> None:
        """Put the network into train mode but for the frozen heads, whose BatchNorm statistics stay as they are."""
        self.network.train()
        for head in self._frozen_heads():
            head.eval()

    def _sparsity(self) -> dict[str, Any]:
        report = self.method.report()
        return {"sparsity": report} if report else {}

    def _save(self, name: str = "state.safetensors") -> None:
        if parallel.rank() != 0:
            return
        tensors, facts = self.method.state()
        sections = {
            "model": self.network.state_dict(),
            "best": self.selection.weights,
            "optimizer": flat_state(self.method.optimizers),
            "weighting": self.method.weighting.state_dict(),
            "method": tensors,
        }
        known = {"step": self.step, "rate": self.rate.state(), "selection": self.selection.state(), "method": facts}
        save_state(self.out / name, sections, known)

    def _load(self, path: Path) -> None:
        sections, facts = load_state(path)
        check_begun(self.recipe, self.out)
        self.network.load_state_dict(sections["model"])
        self.method.weighting.load_state_dict(sections.get("weighting", {}))
        load_flat_state(self.method.optimizers, sections.get("optimizer", {}))
        self.method.load_state(sections.get("method", {}), facts["method"])
        self.rate.load_state(facts["rate"])
        self.selection.load_state(facts["selection"], sections.get("best", {}))
        self.step = facts["step"]
        self._freeze(self.selection.stalled)

    def _start_from(self, path: Path) -> None:
        """Take over network, task weights, moments, rate and step of a run's fork, whose optimiser knew no groups."""
        sections, facts = load_state(path)
        self.method.check_fork(path, facts["step"])
        check_fork_fits(path, sections, self.network, self.method.weighting, self.recipe)
        self.network.load_state_dict(sections["model"])
        self.method.weighting.load_state_dict(sections.get("weighting", {}))
        load_flat_state(self.method.optimizers[:1], sections.get("optimizer", {}), only="state/")
        self.rate.load_state(facts["rate"])
        self.step = facts["step"]

    def _finish(self) -> TrainResult:
        if self.selection.weights:
            self.network.load_state_dict(self.selection.weights)
        report, reached = self.method.report(), self.method.reached
        learned = self.method.finish(self.out)
        validation, test = (self._scored(learned.model, split) for split in (self.val_set, self.test_set))
        if not math.isfinite(validation.loss):
            raise CheckFailed(
                f"the training diverged: the validation loss is {validation.loss} at the end; lower train.lr and start "
                "anew."
            )
        summary = {
            "steps": self.step,
            "sparsity": report,
            "target_reached": reached,
            "validation": finite(validation.metrics),
            "test": finite(test.metrics),
            **learned.facts,
            **({"notes": learned.notes} if learned.notes else {}),
        }
        path = self.out / "checkpoint.safetensors"
        if parallel.rank() == 0:
            Checkpoint(
                weights=learned.model.state_dict(),
                architecture=Architecture(name="multitask-net", arguments=self.recipe.model.model_dump()),
                tasks=self.tasks,
                preprocessing=self.preprocessing,
                edits=learned.edits,
                provenance=json_safe({"recipe": self.recipe.model_dump(mode="json"), **summary}),
            ).save(path)
            write_json(self.out / "summary.json", summary)
        return TrainResult(
            checkpoint=path,
            validation=validation,
            test=test,
            sparsity=report,
            steps=self.step,
            reached=reached,
            notes=learned.notes,
        )


def has_state(recipe: Recipe, out: Path) -> bool:
    """Return whether the run in ``out`` came to save a state; without one it is begun anew.

    Raises InputError if there is no run at all, or one of another recipe.
    """
    if (out / "state.safetensors").exists():
        return True
    check_begun(recipe, out)
    return False


def check_begun(recipe: Recipe, out: Path) -> None:
    """Raise InputError unless the run in ``out`` was started with ``recipe``; keys that are new have their default."""
    if not (out / "recipe.yaml").exists():
        raise InputError(f"there is nothing to resume in '{out}'; leave --resume away to start a run.")
    if load_recipe(out / "recipe.yaml") != recipe:
        raise InputError(f"'{out}' was started with another recipe; resume with the one in its recipe.yaml.")


def launch(config: TrainConfig) -> Any:
    """Return a Fabric for the recipe's device and precision; under ``torchrun`` it joins the other processes."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    device_of(config.accelerator)
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Fabric(accelerator=config.accelerator, devices=1, precision=config.precision)
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=local,
        num_nodes=int(os.environ["WORLD_SIZE"]) // local,
        strategy=DDPStrategy(find_unused_parameters=True),  # frozen heads, skipped blocks
        precision=config.precision,
    )
    if parallel.processes() == 1:
        atexit.register(parallel.leave)
    fabric.launch()
    return fabric
