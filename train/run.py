"""Training as a recipe asks: the one place that knows which method a recipe's section stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from slimtask.train.forks import refuse_fork
from slimtask.train.loop import Progress, Trainer, TrainResult
from slimtask.train.methods.adashare.following import PolicyFollowing
from slimtask.train.methods.adashare.run import train_policy
from slimtask.train.methods.base import Method
from slimtask.train.methods.delta.run import STEPS, train_deltas
from slimtask.train.methods.group_sparsity import GroupSparsity
from slimtask.train.methods.masks.dynamic import DynamicMasks
from slimtask.train.methods.masks.training import MaskedTraining
from slimtask.train.recipe import Recipe


class StagedRun(Protocol):
    """A method of several stages, each of which trains by a Method of its own."""

    def __call__(self, recipe: Recipe, out: Path, *, resume: bool, progress: Progress) -> TrainResult:
        """Train all stages into ``out`` and return the result of the whole."""
        ...


METHODS: dict[str, Callable[[Any], type[Method] | StagedRun]] = {
    "sparsity": lambda config: GroupSparsity,
    "masks": lambda config: DynamicMasks if config.when == "dynamic" else MaskedTraining,
    "policy": lambda config: PolicyFollowing if config.fixed else train_policy,
    "delta": lambda config: train_deltas if config.stage is None else STEPS[config.stage.step],
}
"""What trains a recipe that has the section (of which it has one at most, or none for plain training)."""
_LEARNED = {train_policy: "a policy is learned", train_deltas: "deltas are learned"}


def method_of(recipe: Recipe) -> type[Method] | StagedRun:
    """Return what trains ``recipe``: the class of one run's method, or a run of several stages."""
    given = ((name, getattr(recipe, name)) for name in METHODS)
    return next((METHODS[name](section) for name, section in given if section is not None), Method)


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
    Under ``torchrun`` every process calls it, and the first one writes.
    Raises InputError for bad input, CheckFailed if the training diverges.

    Examples:
        >>> from slimtask.train import load_recipe, train
        >>> small = ["model.width=0.125", "data.tasks=[depth]", "data.height=32", "data.width=32"]
        >>> short = ["train.steps=1", "train.batch=2", "data.train=2", "data.val=1", "data.test=1"]
        >>> train(load_recipe("scenes/dense", small + short), "run").checkpoint.name
        'checkpoint.safetensors'
    """
    method, progress = method_of(recipe), progress or (lambda step, steps, text: None)
    if isinstance(method, type):
        return Trainer(recipe, Path(out), method, resume=resume, fork=fork, fork_at=fork_at).run(progress)
    refuse_fork(f"{_LEARNED[method]} in several stages", fork, fork_at)
    return method(recipe, Path(out), resume=resume, progress=progress)
