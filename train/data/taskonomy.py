"""Tiny Taskonomy as AdaShare and DiSparse read it: views of buildings with five tasks, all PNG files.

``taskonomy.json`` in the root lists, per split, [rgb, segment_semantic, normal, depth_zbuffer, keypoints2d,
edge_texture] paths: ``building/domain/file`` (AdaShare) or, found at ``domain/taskonomy/building/file`` (the layout of
Omnidata's starter data, DiSparse). For which are train and val see ``lists.adashare_split``; a hold-out is of whole
buildings. ``test`` is the list's; its ``test_small`` is for testing too, so it is not used for selection.

* segmentation: 8 bits; 0 (background) and 1 ("uncertain") become class 0: 17 classes. They weigh by Taskonomy's prior
  factors, from ``semseg_prior_factor.npy`` if the root has it.
* normals: 8-bit RGB, v / 255 * 2 - 1; channels (right, down, away from the camera).
* depth: 16 bits, d / 512 metres, encoded as log(1 + d) / log(2^16), 0 .. 1; unknown from 64500 on.
* keypoints and edges: 16 bits, a response v / 2^16 clipped to 0 .. 0.005 and 0 .. 0.08 and stretched to -1 .. 1.

Edges here are a continuous response, not lines: the task "edges" is of the kind "keypoints" (L1 loss, mean error).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import torch
from jaxtyping import Float, Int32
from torch import Tensor

from slimtask.errors import InputError
from slimtask.tasks import TaskSpec
from slimtask.train.data import readers
from slimtask.train.data.frames import FrameSource, Reader
from slimtask.train.data.lists import Entry, adashare_split
from slimtask.train.data.reading import check_classes, read_array, read_labels, read_wide
from slimtask.train.data.transforms import LabelMap
from slimtask.train.data.vectors import Axes

LIST = "taskonomy.json"
PRIORS = "semseg_prior_factor.npy"
HOLDOUT = 0.2
CLASSES = (
    *("background", "bottle", "chair", "couch", "potted_plant", "bed", "dining_table", "toilet", "tv", "microwave"),
    *("oven", "toaster", "sink", "refrigerator", "book", "clock", "vase"),
)
# Taskonomy, taskbank/lib/data: a class weighs more the rarer it is.
PRIOR_FACTORS = (
    *(0.542, 9.167, 7.331, 7.162, 8.723, 7.613, 8.237, 9.149, 8.822, 9.086, 8.914, 9.177, 9.035, 8.604, 9.170),
    *(9.147, 9.137),
)
# Losses and weights of AdaShare and DiSparse.
TASKS = (
    TaskSpec(
        name="segmentation",
        kind="segmentation",
        channels=17,
        classes=CLASSES,
        loss="weighted_cross_entropy",
        class_weights=PRIOR_FACTORS,
    ),
    TaskSpec(name="normals", kind="normals", channels=3, weight=3.0),
    TaskSpec(name="depth", kind="depth", channels=1, weight=2.0, unit="log(1 + 512 m) / log(65536)"),
    TaskSpec(name="keypoints", kind="keypoints", channels=1, weight=7.0),
    TaskSpec(name="edges", kind="keypoints", channels=1, weight=7.0),
)
KEYPOINT_LIMIT, EDGE_LIMIT = 0.005, 0.08
DEPTH_LIMIT = 64500
# The channels of 2D-3D-S and Taskonomy point right, down and, for a wall that faces the camera, to negative values:
# its authors turn them with (-x, -y, z) into axes of x left, y up, z away (github.com/EPFL-VILAB/omnidata/issues/13).
AXES: Axes = ((0, 1), (1, -1), (2, -1))
_FIELDS = ("rgb", "segment_semantic", "normal", "depth_zbuffer", "keypoints2d", "edge_texture")
_COLUMNS = ("image", "segmentation", "normals", "depth", "keypoints", "edges")


class TaskonomySource(FrameSource):
    """The views of one split of Tiny Taskonomy."""

    def __init__(
        self, root: Path, split: str, *, holdout: float = HOLDOUT, seed: int = 0, tasks: Sequence[str] | None = None
    ) -> None:
        frames = adashare_split(
            root / LIST, split, _FIELDS, what="Taskonomy", holdout=holdout, seed=seed, group=_building
        )
        if not (root / frames[0][0]).is_file() and (root / _omnidata(frames[0][0])).is_file():
            frames = [tuple(_omnidata(path) for path in frame) for frame in frames]
        reading: dict[str, Reader] = {
            "segmentation": read_segmentation,
            "normals": partial(readers.normals, axes=AXES),
            "depth": read_log_depth,
            "keypoints": partial(read_response, limit=KEYPOINT_LIMIT),
            "edges": partial(read_response, limit=EDGE_LIMIT),
        }
        offered = (TASKS[0].model_copy(update={"class_weights": prior_factors(root)}), *TASKS[1:])
        super().__init__("taskonomy", root, offered, tasks, frames, _COLUMNS, reading)


def encode_depth(depth: Int32[Tensor, "height width"]) -> Float[Tensor, "1 height width"]:
    """Return log(1 + d) / log(2^16) of depths in 1/512 m, 0 (unknown) where d is 64500 or more."""
    encoded = (1 + depth.float()).log() / math.log(2**16)
    return encoded.masked_fill(depth >= DEPTH_LIMIT, 0.0)[None]


def encode_response(response: Int32[Tensor, "height width"], limit: float) -> Float[Tensor, "1 height width"]:
    """Return a 16-bit response with 0 .. ``limit`` (of 2^16) stretched to -1 .. 1, clipped beyond."""
    return ((response.float() / 2**16).clamp(0.0, limit) / limit * 2.0 - 1.0)[None]


def read_log_depth(path: Path) -> Tensor:
    """Return the encoded depth of a 16-bit picture, see ``encode_depth``."""
    return LabelMap(encode_depth(read_wide(path)))


def read_response(path: Path, limit: float) -> Tensor:
    """Return the encoded response of a 16-bit picture, see ``encode_response``."""
    return LabelMap(encode_response(read_wide(path), limit))


def read_segmentation(path: Path) -> Tensor:
    """Return the classes 0 .. 16 of a label map in which 0 and 1 are both background."""
    labels = read_labels(path).to(torch.int16)
    return LabelMap(check_classes(labels.clamp_min(1) - 1, len(CLASSES), path).to(torch.uint8))


def prior_factors(root: Path) -> tuple[float, ...]:
    """Return the weight of each class: those of the file in the root, else Taskonomy's; InputError for a wrong file."""
    if not (root / PRIORS).is_file():
        return PRIOR_FACTORS
    array = read_array(root / PRIORS, "list of class weights")
    if array.dtype.kind != "f" or array.size != len(CLASSES) or not (array > 0).all():
        raise InputError(f"'{root / PRIORS}' is not {len(CLASSES)} positive numbers; copy it again or remove it.")
    return tuple(float(value) for value in array.ravel())


def _omnidata(path: str) -> str:
    """Return ``building/domain/file`` as ``domain/taskonomy/building/file``; any other form as it is."""
    parts = PurePosixPath(path).parts
    return f"{parts[1]}/taskonomy/{parts[0]}/{parts[2]}" if len(parts) == 3 else path


def _building(entry: Entry) -> str:
    """Return the building of an entry, in either form of path."""
    parts = PurePosixPath(entry[0]).parts
    return parts[-2] if len(parts) > 3 else parts[0]
