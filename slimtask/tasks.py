"""Tasks of a multi-task network, and the preprocessing that all of them share. No tensors, no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from slimtask.errors import InputError, nearest

Kind = Literal["segmentation", "depth", "normals", "edges", "saliency", "keypoints", "classification", "multilabel"]

# Per kind: primary metric, whether higher is better, ignore value of the target, unit of the output.
_DEFAULTS: dict[str, tuple[str, bool, float, str]] = {
    "segmentation": ("miou", True, 255, "logit"),
    "depth": ("abs_rel", False, 0, "metre"),
    "normals": ("mean_angle", False, 0, "unit vector"),
    "edges": ("f1", True, 255, "logit"),
    "saliency": ("f1", True, 255, "logit"),
    "keypoints": ("mae", False, 255, "1"),
    "classification": ("accuracy", True, -1, "logit"),
    "multilabel": ("map", True, -1, "logit"),
}
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MOST_PIXELS = 2**23  # 3840 x 2160 and a little: a network takes gigabytes for them
IMAGE_LEVEL = frozenset({"classification", "multilabel"})


class Frozen(BaseModel):
    """Base of the nouns that live in files: immutable, keyword-only, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskSpec(Frozen):
    """One task: what it predicts, how it is scored, how it weighs in the training loss.

    Target layouts, per image of H x W pixels: segmentation int64 [H, W]; depth float [1, H, W] in metres; normals
    float [3, H, W], unit vectors, x right, y up, z towards the camera; edges and saliency float [1, H, W] in {0, 1};
    classification int64 scalar; multilabel float [channels] in {0, 1}. A pixel (or label) equal to ``ignore`` does
    not count; for normals that is the zero vector.

    ``unit`` is that of the output. Kinds with classes or labels give logits, from which decoding makes probabilities,
    or, with the unit "probability", probabilities that stay as they are.

    Examples:
        >>> from slimtask import TaskSpec
        >>> depth = TaskSpec(name="depth", kind="depth", channels=1)
        >>> depth.metric, depth.higher_is_better, depth.unit
        ('abs_rel', False, 'metre')
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)
    kind: Kind
    channels: int = Field(ge=1, le=4096)
    weight: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)
    loss: str = Field(default="", max_length=64)  # by name, see train/losses.py; empty: the kind's first
    class_weights: tuple[Positive, ...] = ()  # of the loss weighted_cross_entropy
    # these four default to what the kind says, see _DEFAULTS
    ignore: float = 255
    metric: str = ""
    higher_is_better: bool = True
    unit: str = ""
    classes: tuple[str, ...] = ()
    baseline: float | None = Field(default=None, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("kind"), str) and data["kind"] in _DEFAULTS:
            keys = ("metric", "higher_is_better", "ignore", "unit")
            data = dict(zip(keys, _DEFAULTS[data["kind"]], strict=True)) | data
        return data

    @model_validator(mode="after")
    def _check_channels(self) -> TaskSpec:
        fixed = {"depth": 1, "normals": 3, "edges": 1, "saliency": 1}.get(self.kind)
        if fixed is not None and self.channels != fixed:
            raise ValueError(f"task '{self.name}': a {self.kind} task has {fixed} channel(s), not {self.channels}")
        if _DEFAULTS[self.kind][3] == "logit" and self.unit not in ("logit", "probability"):
            raise ValueError(f"task '{self.name}': the unit of its output is logit or probability, not '{self.unit}'")
        if self.classes and len(self.classes) != self.channels:
            raise ValueError(f"task '{self.name}': {len(self.classes)} class names for {self.channels} channels")
        if self.class_weights and len(self.class_weights) != self.channels:
            raise ValueError(
                f"task '{self.name}': {len(self.class_weights)} class weights for {self.channels} channels"
            )
        return self

    @property
    def dense(self) -> bool:
        """Whether the task predicts a map (one vector per pixel) rather than one vector per image."""
        return self.kind not in IMAGE_LEVEL


class Preprocessing(Frozen):
    """How an 8-bit RGB image becomes the network's input: ``(pixel / 255 - mean) / std``, layout [N, 3, H, W].

    ``order`` is that of the channels which the network takes, and of ``mean`` and ``std``: "bgr" where it was trained
    on OpenCV's images. For a network that takes 0 to 255 the mean is 0 and ``std`` 1/255.

    Examples:
        >>> from slimtask import Preprocessing
        >>> Preprocessing(height=96, width=128, mean=(0, 0, 0), std=(1 / 255, 1 / 255, 1 / 255), order="bgr").order
        'bgr'
    """

    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    mean: tuple[Finite, Finite, Finite] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    order: Literal["rgb", "bgr"] = "rgb"

    @model_validator(mode="after")
    def _check_size(self) -> Preprocessing:
        if self.height * self.width > MOST_PIXELS:
            raise ValueError(f"images of {self.width} x {self.height} have more than {MOST_PIXELS:,} pixels")
        return self


def select_tasks(tasks: Sequence[TaskSpec], names: Iterable[str] | None) -> tuple[TaskSpec, ...]:
    """Return the specs called ``names`` in the order of ``tasks`` (all for None); InputError names an unknown one."""
    if names is None:
        return tuple(tasks)
    wanted = list(names)
    known = [task.name for task in tasks]
    for name in wanted:
        if name not in known:
            raise InputError(f"unknown task '{name}'{nearest(name, known)}")
    return tuple(task for task in tasks if task.name in wanted)
