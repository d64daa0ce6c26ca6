"""CelebAMask-HQ as Less is More reads it: faces with a map of hair and skin, and attributes, one task each.

* ``CelebA-HQ-img/N.jpg``, N = 0 .. 29999.
* ``CelebA-HQ-segmask/NNNNN_mask.npy``: 0 background, 1 hair, 2 skin, 255 not labelled (whole numbers of any type, of
  another size than the picture or not).
* ``CelebAMask-HQ-attribute-anno.txt``: the number of rows, the names of the 40 attributes, then a row per picture: its
  file name and 1 or -1 per attribute; any white space between.
* ``celebA_datasplit.json``: {"train": ["N.jpg", ...], "val": ..., "test": ...}.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slimtask.errors import InputError
from slimtask.files import read_text
from slimtask.tasks import TaskSpec
from slimtask.train.data.frames import FrameSource, Reader
from slimtask.train.data.lists import check_inside, hold_out, read_table
from slimtask.train.data.protocol import Sample
from slimtask.train.data.reading import check_classes, read_array
from slimtask.train.data.transforms import LabelMap, resize_map

LIST = "celebA_datasplit.json"
ANNOTATION = "CelebAMask-HQ-attribute-anno.txt"
HOLDOUT = 0.2
CLASSES = ("background", "hair", "skin")
ATTRIBUTES = {"male": "Male", "smiling": "Smiling", "arched_eyebrows": "Arched_Eyebrows", "eyeglasses": "Eyeglasses"}
TASKS = (
    TaskSpec(name="segmentation", kind="segmentation", channels=3, classes=CLASSES),
    *(TaskSpec(name=name, kind="multilabel", channels=1, classes=(name,)) for name in ATTRIBUTES),
)


class CelebASource(FrameSource):
    """The faces of one split of CelebAMask-HQ: the whole split, where the original takes every third."""

    def __init__(
        self, root: Path, split: str, *, holdout: float = HOLDOUT, seed: int = 0, tasks: Sequence[str] | None = None
    ) -> None:
        names = _names(root, split, holdout, seed)
        frames = [(f"CelebA-HQ-img/{name}", _mask(name)) for name in names]
        readers: dict[str, Reader] = {"segmentation": _read_mask}
        super().__init__("celeba", root, TASKS, tasks, frames, ("image", "segmentation"), readers)
        wanted = [task.name for task in self.tasks if task.name in ATTRIBUTES]
        self.attributes = read_attributes(root / ANNOTATION, names, wanted) if wanted else {}

    def read(self, index: int) -> Sample:
        """Return one raw face: the mask at the size of the picture, each attribute float32 [1] of {0, 1}."""
        paths = {column: self.root / path for column, path in zip(self.columns, self.frames[index], strict=True)}
        sample = {column: self.readers[column](path) for column, path in paths.items()}
        if "segmentation" in sample:
            size = sample["image"].shape[-2:]
            sample["segmentation"] = resize_map(sample["segmentation"], list(size))
        return sample | {name: torch.tensor([float(values[index])]) for name, values in self.attributes.items()}


def read_attributes(path: Path, pictures: Sequence[str], wanted: Sequence[str]) -> dict[str, list[bool]]:
    """Return which ``pictures`` have each of the ``wanted`` attributes; InputError names what the file lacks."""
    lines = read_text(path, "the annotation of CelebAMask-HQ").splitlines()
    if len(lines) < 3 or not lines[0].strip().isdecimal():
        raise InputError(f"the annotation '{path}' does not begin with its number of rows; copy it again.")
    header = lines[1].split()
    columns = {}
    for name in wanted:
        if ATTRIBUTES[name] not in header:
            raise InputError(f"the annotation '{path}' has no attribute {ATTRIBUTES[name]}; copy it again.")
        columns[name] = header.index(ATTRIBUTES[name]) + 1
    rows = {}
    for number, line in enumerate(lines[2:], start=3):
        cells = line.split()
        if cells and (len(cells) != len(header) + 1 or not set(cells[1:]) <= {"1", "-1"}):
            raise InputError(f"line {number} of '{path}' is not a file name and {len(header)} times 1 or -1.")
        if cells:
            rows[cells[0]] = cells
    if len(rows) != int(lines[0]):
        raise InputError(
            f"the annotation '{path}' has {len(rows)} rows but announces {lines[0].strip()}; copy it again."
        )
    missing = [picture for picture in pictures if picture not in rows]
    if missing:
        raise InputError(f"the annotation '{path}' lacks {len(missing)} picture(s), first '{missing[0]}'.")
    return {name: [rows[picture][column] == "1" for picture in pictures] for name, column in columns.items()}


def _names(root: Path, split: str, holdout: float, seed: int) -> list[str]:
    """Return the file names of a split; a list without ``val`` gets a seeded hold-out of train."""
    lists = read_table(root / LIST, "CelebAMask-HQ")
    listed = split == "test" or "val" in lists
    key = split if listed else "train"
    names = lists.get(key)
    if not isinstance(names, list) or not names:
        raise InputError(f"the list '{root / LIST}' has no frames under '{key}'; copy it again.")
    for name in names:
        if not (isinstance(name, str) and Path(name).stem.isdecimal()):
            raise InputError(f"'{key}' in '{root / LIST}' has an entry that is not 'NUMBER.jpg': {name!r}.")
        check_inside(name, f"'{key}' in '{root / LIST}'")
    return names if listed else hold_out(names, split, holdout, seed)


def _mask(name: str) -> str:
    return f"CelebA-HQ-segmask/{int(Path(name).stem):05d}_mask.npy"


def _read_mask(path: Path) -> Tensor:
    array = read_array(path, "mask").squeeze()
    if array.ndim != 2 or array.dtype.kind not in "iuf" or not array.size or not (array == np.round(array)).all():
        raise InputError(f"the mask '{path}' is not an array [height, width] of whole numbers; copy it again.")
    labels = torch.from_numpy(array.astype(np.int64))
    if (labels < 0).any():
        raise InputError(f"the mask '{path}' has negative values; copy it again.")
    return LabelMap(check_classes(labels, len(CLASSES), path).to(torch.uint8))
