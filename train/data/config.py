"""Which data, at which size, augmented how: the data section of a recipe, and how it becomes a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from slimtask.errors import InputError, nearest
from slimtask.tasks import Frozen, select_tasks
from slimtask.train.data.camvid import CamVidSource
from slimtask.train.data.celeba import CelebASource
from slimtask.train.data.cityscapes import CityscapesSource
from slimtask.train.data.dataset import TransformedDataset
from slimtask.train.data.nyu_v2 import NyuV2Source
from slimtask.train.data.nyud import NyudMtSource, NyudSource
from slimtask.train.data.partition import partition
from slimtask.train.data.pascal_context import PascalContextSource
from slimtask.train.data.protocol import Source
from slimtask.train.data.reading import data_root
from slimtask.train.data.scenes.source import ScenesSource
from slimtask.train.data.taskonomy import TaskonomySource
from slimtask.train.data.transforms import training_transform, validation_transform

# The data sets on disk: what opens one, and whether all its pictures come from one camera (see transforms).
ON_DISK: dict[str, tuple[Callable[..., Source], bool]] = {
    "nyu_v2": (NyuV2Source, True),
    "camvid": (CamVidSource, True),
    "cityscapes": (CityscapesSource, True),
    "taskonomy": (TaskonomySource, False),
    "nyud_mt": (NyudMtSource, True),
    "nyud": (NyudSource, True),
    "celeba": (CelebASource, False),
    "pascal_context": (PascalContextSource, False),
}
DATASETS = ("scenes", *ON_DISK)
SPLITS = ("train", "val", "test", "train1", "train2")
SHARE = 0.8  # of train1 in train, as in AdaShare's Taskonomy (400 batches of weights to 100 of policy)
Factor = Annotated[float, Field(ge=1.0, le=4.0)]


class DataConfig(Frozen):
    """The data of a recipe. ``name`` and ``tasks`` are checked when the data set is opened."""

    name: str = "scenes"
    root: str | None = None
    """Folder of the data (not for scenes)."""
    height: int = Field(default=96, ge=16, le=4096)
    width: int = Field(default=128, ge=16, le=4096)
    tasks: tuple[str, ...] | None = None
    """Names of the tasks to learn; all that the data set has if not given."""
    train: int = Field(default=2000, ge=1)
    val: int = Field(default=200, ge=1)
    test: int = Field(default=200, ge=1)
    """Numbers of generated scenes per split (scenes only)."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    flip: float = Field(default=0.5, ge=0.0, le=1.0)
    """Probability of mirroring a training image."""
    scale: tuple[Factor, Factor] = (1.0, 1.0)
    """Smallest and largest zoom of a training image: a random crop of 1 / zoom of each side, enlarged."""
    colour: float = Field(default=0.2, ge=0.0, le=1.0)
    """Strength of brightness, contrast and saturation jitter of training images."""
    holdout: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Share of the training data held out for validation where the data set does not say; see docs/data.md."""
    classes: int | None = None
    """Which label map to read: 2, 7 or 19 classes (cityscapes only; 19 if not given)."""
    cache: bool = False
    """Keep raw samples in memory after they were first read or rendered."""

    @field_validator("tasks")
    @classmethod
    def _check_tasks(cls, tasks: tuple[str, ...] | None) -> tuple[str, ...] | None:
        twice = [name for name in tasks or () if (tasks or ()).count(name) > 1]
        if twice:
            raise ValueError(f"'{twice[0]}' is listed twice; name each task once")
        return tasks

    @model_validator(mode="after")
    def _check_scale(self) -> DataConfig:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale: the smallest zoom {self.scale[0]} is larger than the largest {self.scale[1]}")
        return self


def open_dataset(config: DataConfig, split: str) -> TransformedDataset:
    """Return a split with its transforms: augmentation for the training splits, a resize for the others.

    Splits: "train", "val", "test", and "train1" and "train2", a seeded partition of train for methods that learn
    weights on one part and structure on the other. Selection looks at "val" only, which train has no part of.

    Raises InputError for an unknown data set, split or task (with the nearest right word) and for missing data.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split '{split}'{nearest(split, SPLITS)}")
    if split in ("train1", "train2"):
        return partition(open_dataset(config, "train"), SHARE, config.seed)[split == "train2"]
    source, fixed_lens = _source(config, split)
    tasks = select_tasks(source.tasks, config.tasks)
    if not tasks:
        raise InputError("the list of tasks is empty; name at least one task, or leave 'tasks' out for all.")
    size = (config.height, config.width)
    transform = validation_transform(size)
    if split == "train":
        transform = training_transform(
            size, flip=config.flip, scale=config.scale, colour=config.colour, fixed_lens=fixed_lens
        )
    return TransformedDataset(source, transform, tasks, seed=config.seed, cache=config.cache)


def _source(config: DataConfig, split: str) -> tuple[Source, bool]:
    """Return the source and whether all its pictures come from one camera."""
    if config.name not in DATASETS:
        raise InputError(f"unknown data set '{config.name}'{nearest(config.name, DATASETS)}")
    if config.classes is not None and config.name != "cityscapes":
        raise InputError(f"data.classes chooses a label map of cityscapes; '{config.name}' has one, leave it out.")
    if config.name == "scenes":
        count = {"train": config.train, "val": config.val, "test": config.test}[split]
        size = {"height": config.height, "width": config.width}
        return ScenesSource(**size, split=split, count=count, seed=config.seed), False
    opener, one_camera = ON_DISK[config.name]
    chosen = {key: getattr(config, key) for key in ("holdout", "classes") if getattr(config, key) is not None}
    root = data_root(config.root, config.name)
    return opener(root, split, seed=config.seed, tasks=config.tasks, **chosen), one_camera
