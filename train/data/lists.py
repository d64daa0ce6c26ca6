"""Which frames belong to which split: the list files of a data set, and a seeded hold-out where a list names none.

Paths in a list are relative to the data folder; one that leads outside is refused (a list may come from anywhere).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any, TypeVar

from slimtask.errors import InputError
from slimtask.files import read_json, read_text

Entry = tuple[str, ...]
_T = TypeVar("_T")


def adashare_split(
    path: Path,
    split: str,
    fields: Sequence[str],
    *,
    what: str,
    holdout: float,
    seed: int,
    group: Callable[[Entry], str] | None = None,
) -> list[Entry]:
    """Return the entries of a split of an AdaShare list, a JSON table {split: [[path, ...], ...]}.

    ``test`` is the list's. ``train`` and ``val`` are its ``train1`` and ``train2`` (a partition of ``train``); without
    these its ``train`` and ``val``; without that either, a seeded hold-out of ``train``. So selection never sees test.

    Args:
        path: the list. split: "train", "val" or "test". fields: what the paths of an entry are, in order.
        what: the data set, for messages. holdout, seed, group: see ``hold_out``.
    """
    lists = read_table(path, what)
    if split == "test":
        return entries(lists, "test", path, fields)
    if "train1" in lists and "train2" in lists:
        return entries(lists, "train1" if split == "train" else "train2", path, fields)
    if "val" in lists:
        return entries(lists, split, path, fields)
    return hold_out(entries(lists, "train", path, fields), split, holdout, seed, group)


def read_table(path: Path, what: str) -> dict[str, Any]:
    """Return the JSON table of splits in ``path``; InputError if it is missing, damaged or something else."""
    if not path.is_file():
        raise InputError(f"'{path.parent}' has no {path.name}; set data.root to the folder of {what} that holds it.")
    lists = read_json(path, f"the list of {what}")
    if not isinstance(lists, dict):
        raise InputError(f"the list '{path}' is not a table of splits; it is damaged, copy it again.")
    return lists


def entries(lists: dict[str, Any], split: str, path: Path, fields: Sequence[str]) -> list[Entry]:
    """Return the entries under ``split``, each a path per field; InputError names what is wrong with the list."""
    listed = lists.get(split)
    if not isinstance(listed, list) or not listed:
        raise InputError(f"the list '{path}' has no frames under '{split}'; copy it again.")
    for entry in listed:
        if not (isinstance(entry, list) and len(entry) == len(fields) and all(isinstance(one, str) for one in entry)):
            raise InputError(f"'{split}' in '{path}' has an entry that is not [{', '.join(fields)}].")
        for name in entry:
            check_inside(name, f"'{split}' in '{path}'")
    return [tuple(entry) for entry in listed]


def read_ids(path: Path, what: str) -> list[str]:
    """Return the image ids of a text file, one per line; InputError if there is none or one leads outside."""
    ids = [line.strip() for line in read_text(path, f"the list of {what}").splitlines() if line.strip()]
    if not ids:
        raise InputError(f"the list '{path}' of {what} is empty; copy it again.")
    for one in ids:
        check_inside(one, f"'{path}'")
    return ids


def check_inside(name: str, where: str) -> None:
    """Raise InputError if the relative path ``name`` leads outside the data folder.

    The check is of the name: a folder of the data set that is a symbolic link to another disk is the user's own.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise InputError(f"{where} names '{name}' outside the data folder; mend the list.")


def hold_out(
    frames: Sequence[_T], split: str, share: float, seed: int, group: Callable[[_T], str] | None = None
) -> list[_T]:
    """Return the seeded hold-out for ``val`` (at least one), the rest for ``train``, each in the order given.

    With ``group`` whole groups are held out (the images of one building look alike), ``share`` of the groups.
    """
    if group is None:
        held = set(Random(seed).sample(range(len(frames)), max(1, round(share * len(frames)))))
        return [frame for i, frame in enumerate(frames) if (i in held) == (split == "val")]
    groups = sorted({group(frame) for frame in frames})
    chosen = set(Random(seed).sample(groups, max(1, round(share * len(groups)))))
    return [frame for frame in frames if (group(frame) in chosen) == (split == "val")]
