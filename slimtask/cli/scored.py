"""What `slimtask evaluate` scores: a checkpoint, a folder of one network per task, or a bundle; and the split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimtask.cli.calibration import recipe_of
from slimtask.cli.network import Network, only_for_foreign, open_checkpoint
from slimtask.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from slimtask.checkpoint import Checkpoint
    from slimtask.tasks import Preprocessing, TaskSpec
    from slimtask.train.data.config import DataConfig
    from slimtask.train.data.dataset import TransformedDataset
    from slimtask.train.recipe import Recipe
    from slimtask.train.scores import SplitScores

MOST_IMAGES = 32
TABLE = "table.json"


@dataclass(frozen=True, kw_only=True)
class Split:
    """A split at a network's size, without augmentation, and those of its tasks that the data can score."""

    recipe: Recipe
    name: str
    dataset: TransformedDataset
    size: Preprocessing
    tasks: tuple[TaskSpec, ...]
    not_scored: dict[str, str]
    """Why, of the other tasks."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Scores, and the file or network that served each task."""

    scores: SplitScores
    served_by: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something to score: its tasks, how it takes images, where it comes from, and ``run(split, **how)``."""

    path: Path
    tasks: tuple[TaskSpec, ...]
    preprocessing: Preprocessing
    provenance: Mapping[str, Any]
    run: Callable[..., list[Result]]
    bundle: bool = False

    def open_split(self, name: str, recipe: Path | None, wanted: Sequence[str] | None) -> Split:
        """Return the split ``name`` of the data of ``recipe``, or of the recipe that the network remembers.

        Raises InputError if there is none, or it has targets for none of the ``wanted`` tasks (all for None).
        """
        from slimtask.tasks import select_tasks

        chosen = recipe_of(self.provenance, recipe, f"scoring '{self.path}'", option="--data")
        return split_of(chosen, name, self.preprocessing, select_tasks(self.tasks, wanted))


def split_of(recipe: Recipe, name: str, size: Preprocessing, tasks: Sequence[TaskSpec]) -> Split:
    """Return the split ``name`` of a recipe's data for ``tasks``. Raises InputError if it can score none of them."""
    from slimtask.train.data.config import open_dataset

    plain = {"flip": 0.0, "scale": (1.0, 1.0), "colour": 0.0}
    config = recipe.data.model_copy(update={"height": size.height, "width": size.width, **plain})
    offered, reasons = _offered(config, name, [task.name for task in tasks])
    fitting = []
    for task in tasks:
        theirs = offered.get(task.name)
        if theirs is not None and (theirs.kind, theirs.channels) == (task.kind, task.channels):
            fitting.append(task.model_copy(update={"ignore": theirs.ignore}))  # a mark in the targets, so the data's
        elif theirs is not None:
            reasons[task.name] = (
                f"it is {task.kind} with {task.channels} channels in the network and {theirs.kind} with "
                f"{theirs.channels} in the data '{config.name}'."
            )
    if not fitting:
        told = "; ".join(f"{task}: {why.rstrip('.')}" for task, why in reasons.items())
        raise InputError(
            f"the data '{config.name}' can score none of the tasks ({told}); give the recipe of their data."
        )
    dataset = open_dataset(config.model_copy(update={"tasks": tuple(task.name for task in fitting)}), name)
    if len(dataset) == 0:
        raise InputError(f"the {name} split of '{config.name}' is empty; give it more images.")
    return Split(recipe=recipe, name=name, dataset=dataset, size=size, tasks=tuple(fitting), not_scored=reasons)


def open_subject(path: Path, model: str | None, paths: Sequence[str] | None, backend: str) -> Subject:
    """Return what there is at ``path``; ``model`` makes the network of a foreign one. Raises InputError."""
    if not path.is_dir():
        return _checkpoint(path, model)
    if (path / "manifest.json").exists():
        only_for_foreign(path, model=model)
        return _bundle(path, paths, backend)
    if (path / TABLE).exists():
        return _per_task(path, model)
    raise InputError(
        f"'{path}' is neither a bundle, which has a manifest.json, nor what `compress --per-task` wrote, which has a "
        f"{TABLE}; give one of them, or a checkpoint."
    )


def is_foreign(path: Path) -> bool:
    """Return whether there is a network of the user's own at ``path``, which only ``--model`` can make."""
    from slimtask.checkpoint import Checkpoint

    if not path.is_dir():
        return Checkpoint.load(path).foreign
    some = next(iter(sorted(path.glob("*.safetensors"))), None)
    return (path / TABLE).exists() and some is not None and is_foreign(some)


def _offered(config: DataConfig, name: str, tasks: Sequence[str]) -> tuple[dict[str, TaskSpec], dict[str, str]]:
    """Return those of ``tasks`` that the data have, as the data describe them, and why of the others."""
    from slimtask.train.data.config import open_dataset

    def ask(names: Sequence[str]) -> dict[str, TaskSpec]:
        return {task.name: task for task in open_dataset(config.model_copy(update={"tasks": (*names,)}), name).tasks}

    try:
        return ask(tasks), {}
    except InputError:
        if len(tasks) == 1:
            raise
        offered, reasons = dict[str, "TaskSpec"](), dict[str, str]()
        for task in tasks:
            try:
                offered |= ask([task])
            except InputError as error:
                reasons[task] = str(error)
        if not offered:
            raise
        return offered, reasons


def _checkpoint(path: Path, model: str | None) -> Subject:
    """Return the network of a checkpoint, with the tasks that it still has."""
    network = open_checkpoint(path, model)
    tasks, size = _described(path, network.checkpoint)

    def run(split: Split, **how: Any) -> list[Result]:
        return [_score(_with_tasks(network, tasks), split, dict.fromkeys(_names(split.tasks), "PyTorch"), how)]

    provenance = network.checkpoint.provenance
    return Subject(path=path, tasks=tasks, preprocessing=size, provenance=provenance, run=run)


def _per_task(folder: Path, model: str | None) -> Subject:
    """Return the networks that `compress --per-task` wrote, each for its own task alone."""
    found: dict[str, tuple[Network, TaskSpec, Preprocessing]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        network = open_checkpoint(file, model)
        tasks, size = _described(file, network.checkpoint)
        if _names(tasks) == [file.stem]:  # neither the union nor a set of several tasks
            found[file.stem] = network, tasks[0], size
    if not found:
        raise InputError(f"'{folder}' holds no network of a single task; give one of its checkpoints.")
    network, _, size = next(iter(found.values()))

    def run(split: Split, **how: Any) -> list[Result]:
        from slimtask.compress.per_task.networks import OneEach

        wanted = _names(split.tasks)
        each = {name: _with_tasks(found[name][0], [found[name][1]]) for name in wanted}
        return [_score(OneEach(each), split, {name: f"{name}.safetensors" for name in wanted}, how)]

    ordered = [task.name for task in network.checkpoint.tasks]
    specs = sorted((task for _, task, _ in found.values()), key=lambda task: ordered.index(task.name))
    provenance = network.checkpoint.provenance
    return Subject(path=folder, tasks=tuple(specs), preprocessing=size, provenance=provenance, run=run)


def _bundle(folder: Path, paths: Sequence[str] | None, backend: str) -> Subject:
    """Return a bundle, which runs by the files of each of ``paths``, or for None by those that `run` takes."""
    from slimtask.export.bundle import Bundle

    bundle = Bundle.open(folder)
    manifest = bundle.manifest

    def run(split: Split, **how: Any) -> list[Result]:
        from slimtask.bench.scores import score_bundle

        results = []
        for path in paths or (None,):
            done = score_bundle(bundle, split.dataset, tasks=split.tasks, path=path, backend=backend, **how)
            results.append(Result(scores=done.scores, served_by=done.served_by))
        return results

    size, provenance = manifest.preprocessing, manifest.provenance
    return Subject(path=folder, tasks=manifest.tasks, preprocessing=size, provenance=provenance, run=run, bundle=True)


def _described(path: Path, checkpoint: Checkpoint) -> tuple[tuple[TaskSpec, ...], Preprocessing]:
    """Return the tasks that the network still has, and how it takes images. Raises InputError without either."""
    from slimtask.compress.rebuilding import served_tasks

    tasks = served_tasks(checkpoint)
    if not tasks:
        raise InputError(f"'{path}' does not say what its outputs are; write it with --tasks, see `slimtask compress`.")
    if checkpoint.preprocessing is None:
        raise InputError(f"the network in '{path}' takes no single RGB image, so no data set here can score it.")
    return tasks, checkpoint.preprocessing


def _with_tasks(network: Network, tasks: Sequence[TaskSpec]) -> nn.Module:
    from slimtask.compress.network.by_task import TaskOutputs

    return TaskOutputs(network.rebuild(), tasks).eval()


def _score(model: nn.Module, split: Split, served_by: dict[str, str], how: dict[str, Any]) -> Result:
    """Score a network of PyTorch on the device that the recipe names, where it is there."""
    import torch

    from slimtask.train.scores import score

    config = split.recipe.train
    model = model.to("cuda" if torch.cuda.is_available() and config.accelerator != "cpu" else "cpu")
    batch = min(config.batch, MOST_IMAGES)
    scores = score(model, split.dataset, split.size, tasks=split.tasks, batch=batch, **how)
    return Result(scores=scores, served_by=served_by)


def _names(tasks: Sequence[TaskSpec]) -> list[str]:
    return [task.name for task in tasks]
