"""Deltas as a whole: the base task, then every other task in three steps, then one network and one file per delta."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from slimtask.architectures import build
from slimtask.checkpoint import Architecture, Checkpoint, json_safe
from slimtask.compress.edits.deltas import DeltaPaths, deltas_of, install_deltas_
from slimtask.compress.rebuilding import rebuild
from slimtask.compress.structures.delta import Delta
from slimtask.errors import InputError, nearest
from slimtask.files import write_json
from slimtask.tasks import Preprocessing, TaskSpec
from slimtask.train import parallel
from slimtask.train.evaluate import Evaluation, evaluate, finite
from slimtask.train.loop import Progress, TrainResult, launch
from slimtask.train.methods.base import Method
from slimtask.train.methods.delta.config import DeltaConfig, StageConfig, check_tasks, of_task
from slimtask.train.methods.delta.learning import GateLearning
from slimtask.train.methods.delta.tuning import ActivationTuning, SupportTuning
from slimtask.train.metrics import metric_names
from slimtask.train.models import VITS
from slimtask.train.models.net import hidden_widths
from slimtask.train.prepare import chosen_tasks, open_splits
from slimtask.train.recipe import Recipe
from slimtask.train.stages import open_folder, part_of, run_stage

BASE = "base"
CHECKPOINT = "checkpoint.safetensors"
STEPS: dict[str, type[Method]] = {"gates": GateLearning, "support": SupportTuning, "activations": ActivationTuning}


def train_deltas(recipe: Recipe, out: Path, *, resume: bool, progress: Progress) -> TrainResult:
    """Return the result of the base task and all sub-tasks; ``out`` gets the checkpoint of all, deltas, summary.json.

    Every step is a run of its own in ``out``: "base", then "TASK-gates", "TASK-support" and "TASK-activations".
    ``deltas/TASK.safetensors`` is what a sub-task stores besides its head. Raises InputError and CheckFailed as
    ``train``.
    """
    assert recipe.delta is not None
    tasks = _ordered(open_splits(recipe)[0].tasks, recipe.delta.base)
    _check(recipe)
    names = [task.name for task in tasks]
    check_tasks(recipe.delta, names)
    hidden_widths(recipe.model.head_hidden, names)  # like the rest told now, not after the base was trained
    chosen_tasks(tasks, recipe.train)  # every step picks its task's values from these, and does not see the others
    stages = list(stage_recipes(recipe, out, tasks))  # refuses strengths and rates that lack a task
    open_folder(recipe, out, resume=resume)
    lengths = [stage.train.steps for _, stage in stages]
    last, made = {}, 0
    for number, (name, stage) in enumerate(stages):
        step = stage.delta.stage if stage.delta else None
        method = STEPS[step.step] if step else Method
        result = run_stage(name, stage, out, method, part_of(progress, lengths, number, name))
        made += result.steps
        last[step.task if step else recipe.delta.base] = result.checkpoint
    return _finish(recipe, out, last, made)


def stage_recipes(recipe: Recipe, out: Path, tasks: tuple[TaskSpec, ...]) -> Iterator[tuple[str, Recipe]]:
    """Yield name and recipe of every step, in order; each is the plain recipe of one task."""
    config = recipe.delta
    assert config is not None
    steps = {"gates": config.learn, "support": config.finetune}
    if config.activations is not None:
        steps["activations"] = config.settle
    base = config.base_checkpoint
    if base is None:
        yield BASE, _of_task(recipe, tasks[0], BASE, delta=None)
        base = str((out / BASE / CHECKPOINT).resolve())
    for task in tasks[1:]:
        of_task(config.gates.strength, task.name)  # told now, not after the base was trained
        of_task(config.activations.strength if config.activations else None, task.name)
        start = base
        for step, length in steps.items():
            name = f"{task.name}-{step}"
            changes: dict[str, Any] = {"steps": max(1, round(length * recipe.train.steps)), "init": None}
            changes["rates"] = {}  # they are the base's; the deltas have delta.lr
            if config.schedule is not None:
                changes["schedule"] = config.schedule
            rate = of_task(_rates(config, step), task.name)
            if rate is not None:
                changes["lr"] = rate
            stage = StageConfig(step=step, task=task.name, start=start)  # type: ignore[arg-type]
            yield name, _of_task(recipe, task, name, delta=config.model_copy(update={"stage": stage}), **changes)
            start = str((out / name / CHECKPOINT).resolve())


def _check(recipe: Recipe) -> None:
    """Raise InputError for what would come to light only once the base is trained."""
    assert recipe.delta is not None
    if recipe.model.trunk not in VITS:
        raise InputError(
            f"deltas need a transformer, not the trunk '{recipe.model.trunk}'; set model.trunk to {' or '.join(VITS)}."
        )
    if recipe.delta.base_checkpoint is not None:
        base = Checkpoint.load(recipe.delta.base_checkpoint)
        names = [task.name for task in base.tasks]
        wanted = recipe.model.of_task(recipe.delta.base).model_dump()
        if names != [recipe.delta.base] or base.edits or base.architecture.arguments != wanted:
            raise InputError(
                f"delta.base_checkpoint '{recipe.delta.base_checkpoint}' must hold the recipe's network, dense, for "
                f"the task '{recipe.delta.base}' alone, as the folder '{BASE}' of such a run has it."
            )


def _rates(config: DeltaConfig, step: str) -> Any:
    own = config.activations.lr if step == "activations" and config.activations is not None else None
    return own if own is not None else config.lr


def _of_task(recipe: Recipe, task: TaskSpec, name: str, *, delta: DeltaConfig | None, **changes: Any) -> Recipe:
    train, own = recipe.train, task.name
    changes["loss_weights"] = {key: value for key, value in train.loss_weights.items() if key == own}
    changes["losses"] = {key: value for key, value in train.losses.items() if key == own}
    if not isinstance(train.metrics, str):
        changes["metrics"] = tuple(metric for metric in train.metrics if metric in metric_names(task.kind))
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}-{name}",
            "data": recipe.data.model_copy(update={"tasks": (own,)}),
            "model": recipe.model.of_task(own),
            "train": train.model_copy(update=changes),
            "delta": delta,
        }
    )


def _ordered(tasks: tuple[TaskSpec, ...], base: str) -> tuple[TaskSpec, ...]:
    """Return the tasks, the base task first."""
    names = [task.name for task in tasks]
    if base not in names:
        raise InputError(f"delta.base: the data have no task '{base}'{nearest(base, names)}")
    if len(names) < 2:
        raise InputError(f"delta.base: '{base}' is the only task; give data.tasks one more, which changes it.")
    return tuple(sorted(tasks, key=lambda task: task.name != base))


def _finish(recipe: Recipe, out: Path, last: dict[str, Path], steps: int) -> TrainResult:
    """Write what the whole run learned, the last checkpoints of the tasks: network, deltas, summary; return it."""
    assert recipe.delta is not None
    base = Checkpoint.load(last.pop(recipe.delta.base, recipe.delta.base_checkpoint or ""))
    ends = {task: Checkpoint.load(path) for task, path in last.items()}
    specs = (base.tasks[0], *(end.tasks[0] for end in ends.values()))
    model, edit, deltas = together(base, ends, recipe.model.model_dump(), specs)
    validation, test = _evaluations(recipe, model)
    entries = sum(p.numel() for name, p in base.weights.items() if name.startswith("trunk."))
    summary = {
        "steps": steps,
        "validation": finite(validation.metrics),
        "test": finite(test.metrics),
        "base": recipe.delta.base,
        "deltas": {delta.task: _facts(delta, ends[delta.task], entries) for delta in deltas},
    }
    if parallel.rank() == 0:
        for delta in deltas:
            delta.save(out / "deltas" / f"{delta.task}.safetensors")
        base.with_changes(
            weights=model.state_dict(),
            architecture=Architecture(name=base.architecture.name, arguments=recipe.model.model_dump()),
            tasks=specs,
            edits=(json_safe(edit.model_dump(mode="json")),),
            provenance=json_safe({"recipe": recipe.model_dump(mode="json"), **summary}),
        ).save(out / CHECKPOINT)
        write_json(out / "summary.json", summary)
    return TrainResult(
        checkpoint=out / CHECKPOINT, validation=validation, test=test, sparsity={}, steps=steps, reached=True
    )


def together(
    base: Checkpoint, ends: dict[str, Checkpoint], arguments: dict[str, Any], specs: tuple[TaskSpec, ...]
) -> tuple[nn.Module, DeltaPaths, list[Delta]]:
    """Return one network of the base task and the sub-tasks, its edit, and the deltas that single networks have."""
    model: nn.Module = build(base.architecture.name, arguments, specs)
    weights = dict(base.weights)
    for task, end in ends.items():
        weights |= {name: tensor for name, tensor in end.weights.items() if name.startswith(f"heads.{task}.")}
    model.load_state_dict(weights)
    deltas = [deltas_of(rebuild(end))[task] for task, end in ends.items()]
    return model, install_deltas_(model, deltas), deltas


def _evaluations(recipe: Recipe, model: nn.Module) -> tuple[Evaluation, Evaluation]:
    """Return the scores on the validation and the test split."""
    train, val, test = open_splits(recipe)
    tasks = chosen_tasks(train.tasks, recipe.train)
    size = Preprocessing(height=recipe.data.height, width=recipe.data.width)
    model.to(launch(recipe.train).device)
    scores = [evaluate(model, split, size, tasks=tasks, extra=recipe.train.metrics) for split in (val, test)]
    model.cpu()
    return scores[0], scores[1]


def _facts(delta: Delta, end: Checkpoint, entries: int) -> dict[str, Any]:
    size, head = delta.size(), [t for name, t in end.weights.items() if name.startswith("heads.")]
    return {
        "delta_bytes": size.values_bytes + size.index_bytes,
        "head_bytes": sum(tensor.numel() * tensor.element_size() for tensor in head),
        "trunk_bytes": entries * torch.finfo(torch.float32).bits // 8,
        "execution": delta.execution.model_dump(mode="json"),
        **end.provenance.get("delta", {}),
    }
