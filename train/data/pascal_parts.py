"""PASCAL-Part annotations of people: which part of the body every pixel shows, and which images have people."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from slimtask.errors import InputError
from slimtask.files import read_json, write_json
from slimtask.train.data.reading import read_mat

PERSON = 15  # the category of people in PASCAL VOC
PARTS = ("background", "head", "torso", "upper_arm", "lower_arm", "upper_leg", "lower_leg")
_NUMBERS = {
    **dict.fromkeys(("head", "hair", "nose", "mouth", "lear", "rear", "leye", "reye", "lebrow", "rebrow"), 1),
    **dict.fromkeys(("torso", "neck"), 2),
    **dict.fromkeys(("luarm", "ruarm"), 3),
    **dict.fromkeys(("llarm", "rlarm", "lhand", "rhand"), 4),
    **dict.fromkeys(("luleg", "ruleg"), 5),
    **dict.fromkeys(("llleg", "rlleg", "lfoot", "rfoot"), 6),
}


def read_parts(path: Path, size: Sequence[int]) -> UInt8[Tensor, "height width"]:
    """Return the parts of all people of an image of ``size`` (height, width): 0 background, 1 .. 6 see PARTS.

    Raises InputError if the file is damaged, has another size or a part of a person that PASCAL-Part does not know.
    """
    parts = np.zeros(tuple(size), np.uint8)
    for person in (one for one in _objects(path) if _category(one, path) == PERSON):
        for part in _listed(person.get("parts")):
            name, mask = (part.get("part_name"), part.get("mask")) if isinstance(part, dict) else (None, None)
            if name not in _NUMBERS:
                raise InputError(f"the annotation '{path}' has a person with the unknown part '{name}'; copy it again.")
            if not isinstance(mask, np.ndarray) or mask.shape != parts.shape:
                raise InputError(f"the part '{name}' in '{path}' is not of its picture's size; copy both again.")
            parts[mask > 0] = _NUMBERS[name]
    return torch.from_numpy(parts)


def with_people(root: Path, split: str, ids: Sequence[str], annotation: str) -> list[str]:
    """Return the ids of the images with at least one person.

    Reads the cache ``ImageSets/Parts/SPLIT.txt`` (JSON, {id: [category of each object]}) that ATRC and InvPT make; if
    it is missing or lacks an id, the annotations (``annotation`` with ``*`` for the id) are read once and the cache is
    written, where the folder allows it.
    """
    path = root / "ImageSets" / "Parts" / f"{split}.txt"
    known = read_json(path, "the list of objects") if path.is_file() else {}
    if not isinstance(known, dict):
        raise InputError(f"the list of objects '{path}' is not a table of ids; remove it, it will be made again.")
    missing = [one for one in ids if one not in known]
    for one in missing:
        file = root / annotation.replace("*", one)
        known[one] = [_category(found, file) for found in _objects(file)]
    if missing:
        _keep(path, known)
    return [one for one in ids if PERSON in _listed(known[one])]


def _keep(path: Path, known: dict[str, Any]) -> None:
    with suppress(OSError):  # a read-only data folder: the annotations are read again next time
        write_json(path, known)


def _objects(path: Path) -> list[dict[str, Any]]:
    anno = read_mat(path, "anno")
    objects = _listed(anno.get("objects")) if isinstance(anno, dict) else None
    if objects is None or not all(isinstance(one, dict) for one in objects):
        raise InputError(f"the annotation '{path}' has no list of objects; copy it again.")
    return objects


def _category(one: dict[str, Any], path: Path) -> int:
    category = one.get("class_ind")
    if not isinstance(category, int | float) or category != int(category):
        raise InputError(f"the annotation '{path}' has an object without a category; copy it again.")
    return int(category)


def _listed(value: Any) -> list[Any]:
    """Return a MATLAB struct array as a list: SciPy simplifies one of length one to its element."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | np.ndarray) else [value]
