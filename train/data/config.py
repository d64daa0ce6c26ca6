"""Which data, at which size, augmented how: the data section of a recipe, and how it becomes a data set."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from slimtask.errors import InputError, nearest
from slimtask.tasks import Frozen, select_tasks
from slimtask.train.data.camvid import HOLDOUT as CAMVID_HOLDOUT
from slimtask.train.data.camvid import CamVidSource
from slimtask.train.data.dataset import TransformedDataset
from slimtask.train.data.nyu_v2 import HOLDOUT as NYU_HOLDOUT
from slimtask.train.data.nyu_v2 import NyuV2Source
from slimtask.train.data.protocol import Source
from slimtask.train.data.reading import data_root
from slimtask.train.data.scenes.source import ScenesSource
from slimtask.train.data.transforms import training_transform, validation_transform

DATASETS = ("scenes", "nyu_v2", "camvid")
SPLITS = ("train", "val", "test")
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
    """Share of the training data held out for validation where the data set does not say (camvid .15, nyu_v2 .2)."""
    cache: bool = False
    """Keep raw samples in memory after they were first read or rendered."""

    @model_validator(mode="after")
    def _check_scale(self) -> DataConfig:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale: the smallest zoom {self.scale[0]} is larger than the largest {self.scale[1]}")
        return self


def open_dataset(config: DataConfig, split: str) -> TransformedDataset:
    """Return a split ("train", "val" or "test") with its transforms: augmentation for train, a resize for the others.

    Raises InputError for an unknown data set, split or task (with the nearest right word) and for missing data.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split '{split}'{nearest(split, SPLITS)}")
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
    if config.name == "scenes":
        count = {"train": config.train, "val": config.val, "test": config.test}[split]
        size = {"height": config.height, "width": config.width}
        return ScenesSource(**size, split=split, count=count, seed=config.seed), False
    if config.name == "nyu_v2":
        root = data_root(config.root, config.name)
        return NyuV2Source(root, split, holdout=config.holdout or NYU_HOLDOUT, seed=config.seed), True
    if config.name == "camvid":
        root = data_root(config.root, config.name)
        return CamVidSource(root, split, holdout=config.holdout or CAMVID_HOLDOUT, seed=config.seed), True
    raise InputError(f"unknown data set '{config.name}'{nearest(config.name, DATASETS)}")
