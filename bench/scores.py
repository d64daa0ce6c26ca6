"""Scores of a bundle: its own files, runtime and precision on a split, with the metrics of the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from slimtask.errors import InputError, nearest
from slimtask.export.bundle import FUSED, Bundle
from slimtask.export.runtime.runner import Runner
from slimtask.export.runtime.selection import STORED_AS
from slimtask.tasks import TaskSpec

if TYPE_CHECKING:
    from torch import Tensor

    from slimtask.train.data.protocol import MultiTaskDataset
    from slimtask.train.scores import SplitScores

PATHS = ("fused", "per-task")


@dataclass(frozen=True, kw_only=True)
class BundleScores:
    """The scores of a bundle's tasks, and of each the file that served it with its precision: "depth.onnx, fp16"."""

    scores: SplitScores
    served_by: dict[str, str]


def score_bundle(
    bundle: Bundle | Path | str,
    dataset: MultiTaskDataset,
    *,
    tasks: Sequence[TaskSpec] | None = None,
    path: str | None = None,
    backend: str = "onnxruntime-cpu",
    threads: int | None = None,
    **how: Any,
) -> BundleScores:
    """Return the scores of ``tasks`` (all of the bundle's for None) as its files give them, image by image.

    ``path`` is "fused" or "per-task"; None takes the files that a Runner of these tasks takes. Images are normalised as
    the manifest says; outputs are not decoded, as metrics want logits. ``backend`` and ``threads`` are those of
    ``Runner.open``, ``how`` is for ``slimtask.train.scores.score``. Raises InputError for a path or a task that
    the bundle has not, and what these two raise.

    Example::

        done = score_bundle("runs/demo/bundle", open_dataset(recipe.data, "val"), path="per-task")
        print(done.served_by["depth"], done.scores.estimates()["depth"]["abs_rel"])
    """
    import torch

    from slimtask.train.scores import score

    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    specs = opened.manifest.tasks if tasks is None else tuple(tasks)
    only = opened if path is None else _of_path(opened, path, backend)
    with Runner.open(only, [task.name for task in specs], backend, threads) as runner:

        def outputs(images: Tensor) -> Mapping[str, Tensor]:
            each = [runner.infer(np.ascontiguousarray(image)) for image in np.split(images.numpy(), len(images))]
            return {name: torch.from_numpy(np.concatenate([one[name] for one in each])) for name in each[0]}

        scores = score(outputs, dataset, runner.preprocessing, tasks=specs, **how)
        return BundleScores(scores=scores, served_by=_served_by(runner))


def _of_path(bundle: Bundle, path: str, backend: str) -> Bundle:
    """Return the bundle as if it had the files of one path only."""
    if path not in PATHS:
        raise InputError(f"unknown path '{path}'{nearest(path, PATHS)}")
    kept = tuple(one for one in bundle.manifest.artifacts if (one.role == FUSED) == (path == "fused"))
    if not any(one.backend == STORED_AS.get(backend, one.backend) for one in kept):
        raise InputError(
            f"the bundle '{bundle.path}' has no {path} files for {backend}; export it with --paths {path}, or leave "
            "the path out."
        )
    return Bundle(path=bundle.path, manifest=bundle.manifest.model_copy(update={"artifacts": kept}))


def _served_by(runner: Runner) -> dict[str, str]:
    return {
        task.name: f"{artifact.path}, {artifact.precision}"
        for artifact in runner.artifacts
        for task in runner.tasks
        if task.name in artifact.tasks
    }
