"""Predictions side by side: one scene is an image, and per task one cell for the truth and for every network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from slimtask.errors import InputError
from slimtask.export.pictures import class_name, colorize, depth_limits, legend
from slimtask.images import to_rgb
from slimtask.tasks import TaskSpec

_SHOWN = 4

Shares = tuple[tuple[str, float], ...]
"""Class names with their probabilities, likeliest first."""


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One task of a scene: a cell per column (a map or class shares), and the legend that all cells share."""

    task: TaskSpec
    cells: dict[str, Image.Image | Shares]
    legend: tuple[tuple[str, tuple[int, int, int]], ...] = ()
    limits: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One image with all its strips."""

    image: Image.Image
    strips: tuple[Strip, ...]


def scene(
    image: np.ndarray | Image.Image, tasks: Sequence[TaskSpec], columns: Mapping[str, Mapping[str, np.ndarray]]
) -> Scene:
    """Return a scene that compares predictions on one image.

    Args:
        image: RGB uint8 [H, W, 3] or a PIL image.
        tasks: the tasks to show, in order; one that no column predicts is left out.
        columns: label (``truth``, ``dense``, ``70 %``) to decoded predictions by task name, in the layouts of
            ``slimtask.export.pictures``; the truth of a classification may be the class number as a scalar array.

    Raises:
        InputError: without any column, for an image that is not RGB, or for a prediction that is not decoded.
    """
    if not columns:
        raise InputError("a scene needs at least one column of predictions, for example 'dense'.")
    strips = [
        _strip(task, {label: one[task.name] for label, one in columns.items() if task.name in one}) for task in tasks
    ]
    return Scene(image=Image.fromarray(to_rgb(image)), strips=tuple(strip for strip in strips if strip.cells))


def _strip(task: TaskSpec, found: Mapping[str, np.ndarray]) -> Strip:
    if not task.dense:
        return Strip(task=task, cells={label: _shares(task, values) for label, values in found.items()})
    limits = depth_limits(*found.values()) if task.kind == "depth" and found else None
    entries = legend(task, *found.values()) if task.kind == "segmentation" and found else []
    cells: dict[str, Image.Image | Shares] = {
        label: Image.fromarray(colorize(task, values, limits=limits)) for label, values in found.items()
    }
    return Strip(task=task, cells=cells, legend=tuple(entries), limits=limits)


def _shares(task: TaskSpec, values: np.ndarray) -> Shares:
    """Return the likeliest classes; a scalar is the number of the true class."""
    if values.ndim == 0:
        index = int(values)
        return ((class_name(task, index) if 0 <= index < task.channels else "not labelled", 1.0),)
    if values.shape != (task.channels,):
        raise InputError(f"task '{task.name}' has {task.channels} classes, the prediction has shape {values.shape}.")
    if np.isin(values, (0, 1)).all():  # a truth: only what is there
        return tuple((class_name(task, index), 1.0) for index in np.flatnonzero(values).tolist())
    order = np.argsort(-values, kind="stable")[:_SHOWN]
    return tuple((class_name(task, index), float(values[index])) for index in order.tolist())
