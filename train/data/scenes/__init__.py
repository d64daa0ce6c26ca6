"""Generated indoor scenes: ray-cast rooms with exact segmentation, depth, normals, edges, room type and object labels.

Seeded and endless: scene ``i`` of a split is a function of (seed, split, i, size) alone. Source: own construction; the
integer hash is named in ``counter``.
"""

from slimtask.train.data.scenes.classes import CLASSES, OBJECTS, ROOMS, TASKS
from slimtask.train.data.scenes.rendering import render

__all__ = ["CLASSES", "OBJECTS", "ROOMS", "TASKS", "render"]
