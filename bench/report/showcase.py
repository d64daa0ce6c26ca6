"""Predictions of the deployed artifacts on test images, side by side with the truth, for the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from slimtask.bench.report.gallery import Scene, scene
from slimtask.export.bundle import Bundle
from slimtask.export.runtime.runner import Runner
from slimtask.tasks import TaskSpec


def scenes_of(recipe: Any, dense: Bundle, compressed: Bundle, name: str, count: int = 3) -> list[Scene]:
    """Return ``count`` scenes of the recipe's test split: truth, dense, compressed."""
    from slimtask.train.data.config import open_dataset

    dataset = open_dataset(recipe.data, "test")
    indices = np.linspace(0, len(dataset) - 1, count).astype(int).tolist()
    scenes = []
    with Runner.open(dense) as before, Runner.open(compressed) as after:
        for index in indices:
            sample = dataset[index]
            image = (sample["image"].numpy() * 255).round().astype(np.uint8).transpose(1, 2, 0)
            columns = {
                "truth": {task.name: _truth(task, sample[task.name].numpy()) for task in dataset.tasks},
                "dense": before.decode(before.run(image)),
                name: after.decode(after.run(image)),
            }
            scenes.append(scene(image, dataset.tasks, columns))
    return scenes


def _truth(task: TaskSpec, target: np.ndarray) -> np.ndarray:
    """Return a target in the layout of decoded predictions."""
    if task.kind in ("depth", "edges", "saliency"):
        target = np.clip(target[0], 0, None)
    kind = np.int64 if task.kind in ("segmentation", "classification") else np.float32
    return np.asarray(target, dtype=kind)
